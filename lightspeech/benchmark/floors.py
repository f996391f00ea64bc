"""Multiply-adds of convolutions and matrix products, counted off the configurations.

A layer of |W| weights at R positions takes R |W|; a transposed convolution's positions are those of
its input. Biases, activations and normalisations are not counted, nor is work that a particular
implementation does twice, such as the neighbours of a chunk.
"""

from __future__ import annotations

from lightspeech.audio import FRAME_SECONDS, N_MELS
from lightspeech.config import ModelConfig
from lightspeech.convnext import KERNEL_SIZE
from lightspeech.data import Batch
from lightspeech.refiner import POSITIONS
from lightspeech.teacher.batches import TeacherBatch
from lightspeech.vocoders import Vocoder
from lightspeech.vocoders.hifigan import HifiGan
from lightspeech.vocoders.hifigan_config import HifiGanConfig
from lightspeech.vocoders.light import LightVocoder
from lightspeech.vocoders.light_network import BINS, LightConfig
from lightspeech.vocoders.waveglow import WaveGlowVocoder
from tacotron2 import Tacotron2Config
from waveglow import WaveGlowConfig

_OUTER_KERNEL = 7  # of HiFi-GAN's first and last convolution


def speaking_multiply_adds(config: ModelConfig, symbols: int, tokens: int, frames: int) -> int:
    """Of the student, from the ids of one utterance to its mel.

    What has the same input is counted once: the encoder's products with a symbol, however often it
    occurs, and the decoder's with a token, however many frames it takes.

    Args:
        config: sizes of the layers.
        symbols: how many different ones there are among the tokens.
        tokens: of the utterance.
        frames: of the utterance.
    """
    memory, encoder, decoder = (
        config.encoder_size,
        config.encoder_size // 2,
        config.decoder_size // 2,
    )
    of_a_symbol = 2 * 3 * encoder * config.embedding_size
    of_a_token = (
        2 * 3 * encoder * encoder
        + memory * (memory + config.duration_size)
        + config.duration_size
        + 2 * 3 * decoder * memory
    )
    of_a_frame = 2 * 3 * decoder * decoder
    last_size = config.decoder_size
    if config.refiner_blocks:
        last_size = config.refiner_size
        of_a_token += memory * last_size
        of_a_frame += (config.decoder_size + POSITIONS) * last_size
        of_a_block = last_size * (KERNEL_SIZE + 2 * config.refiner_hidden)
        of_a_frame += config.refiner_blocks * of_a_block
    of_a_frame += last_size * config.n_mels
    return of_a_symbol * symbols + of_a_token * tokens + of_a_frame * frames


def training_multiply_adds(batch: Batch, E: int) -> int:
    """Of a training step of the student: forward, and twice that backward.

    Args:
        batch: of which the lengths count.
        E: width of the teacher's memory, which the encoder learns to predict.
    """
    config = ModelConfig()
    rows_tokens, rows_frames = batch.tokens.numel(), batch.mel.shape[0] * batch.mel.shape[1]
    encoder, decoder = config.encoder_size // 2, config.decoder_size // 2
    weights_tokens = (
        2 * 3 * encoder * (config.embedding_size + encoder)  # the encoder, both directions
        + config.encoder_size * (config.encoder_size + config.duration_size + E)
        + 2 * 3 * decoder * config.encoder_size  # the decoder's inputs, once a token
    )
    weights_frames = 2 * 3 * decoder * decoder + config.decoder_size * config.n_mels
    return 3 * (weights_tokens * rows_tokens + weights_frames * rows_frames)


def teacher_training_multiply_adds(config: Tacotron2Config, batch: TeacherBatch) -> int:
    """Of a training step of a Tacotron 2: forward, and twice that backward.

    Args:
        batch: of which the lengths count.
    """
    tokens, frames = batch.tokens.numel(), batch.mel.shape[0] * batch.mel.shape[1]
    E, A, mels = config.encoder_embedding_dim, config.attention_dim, config.n_mel_channels
    asking, speaking = config.attention_rnn_dim, config.decoder_rnn_dim
    of_a_token = (
        config.encoder_n_convolutions * config.encoder_kernel_size * E * E
        + 2 * 4 * (E // 2) * (E + E // 2)  # both directions of the LSTM
        + A * E
    )
    inner, post_net = config.postnet_embedding_dim, config.postnet_kernel_size
    of_a_frame = (
        config.prenet_dim * (mels + config.prenet_dim)
        + 4 * asking * (config.prenet_dim + E + asking)
        + A * asking
        + 4 * speaking * (asking + E + speaking)
        + (mels + 1) * (speaking + E)
        + post_net * (2 * mels * inner + (config.postnet_n_convolutions - 2) * inner * inner)
    )
    # location and context, of each frame at each token
    of_both = 2 * config.attention_location_kernel_size * A + A + E
    N = batch.tokens.shape[1]
    return 3 * (of_a_token * tokens + (of_a_frame + of_both * N) * frames)


def vocoder_multiply_adds(vocoder: Vocoder) -> float | None:
    """Of a second of speech; None where most of the work is something else."""
    if isinstance(vocoder, HifiGan):
        return hifigan_multiply_adds(vocoder.generator.config)
    if isinstance(vocoder, WaveGlowVocoder):
        return waveglow_multiply_adds(vocoder.model.config)
    if isinstance(vocoder, LightVocoder):
        return light_multiply_adds(vocoder.network.config)
    return None


def light_multiply_adds(config: LightConfig) -> float:
    """Of a second of speech through the light vocoder, but for the Fourier transform.

    A frame has one convolution to C channels, |W| = 80 x 7 x C, blocks of a depthwise convolution
    and two linear layers, |W| = 7 C + 2 C H, and a linear layer to two numbers for each of 513
    bins.
    """
    block = config.size * (KERNEL_SIZE + 2 * config.hidden_size)
    of_a_frame = N_MELS * KERNEL_SIZE * config.size + config.blocks * block + config.size * 2 * BINS
    return of_a_frame / FRAME_SECONDS


def hifigan_multiply_adds(config: HifiGanConfig) -> float:
    """Of a second of speech through HiFi-GAN's generator (Kong et al. 2020, arXiv:2010.05646).

    The first convolution, on frames, has |W| = 80 x 7 x C. Each stage of upsampling, by r, goes
    from C channels to C / 2 by a transposed convolution of kernel k, |W| = k C C / 2 at the rate
    before it; at r times that rate follow its residual blocks, of which each convolution, two a
    dilation in blocks of type 1 and one in type 2, has |W| = k C / 2 C / 2. The last convolution,
    to one channel, has |W| = 7 C.
    """
    channels, rate = config.upsample_initial_channel, 1.0
    work = rate * config.num_mels * _OUTER_KERNEL * channels
    for factor, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
        work += rate * kernel * channels * (channels // 2)
        channels, rate = channels // 2, rate * factor
        for size, dilations in zip(
            config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True
        ):
            convolutions = len(dilations) * (2 if config.resblock == "1" else 1)
            work += rate * convolutions * size * channels**2
    work += rate * _OUTER_KERNEL * channels
    return work / FRAME_SECONDS


def waveglow_multiply_adds(config: WaveGlowConfig) -> float:
    """Of a second of speech through WaveGlow (Prenger et al. 2018, arXiv:1811.00002).

    A frame is upsampled by a transposed convolution, |W| = 80 x 80 x 1024. All else runs on groups
    of g = 8 samples, 32 of them a frame. In a flow with n of a group's samples still in play (2
    fewer after every 4 flows), C channels, L layers and kernel k:

        1 x 1 convolution      n n
        start                  C n / 2
        conditioning           80 g 2 C L
        dilated convolutions   L k C 2 C
        residual connections   (L - 1) C C
        skip connections, end  L C n

    Between a layer's skip connection (C x C) and `end` (n x C) there is nothing but a sum, so that
    they are one matrix (n x C) for each layer.
    """
    C, L, mels = config.n_channels, config.n_layers, config.n_mel_channels
    of_a_group = 0
    for n in config.flow_channels:
        of_a_group += n * n + C * n // 2
        of_a_group += mels * config.n_group * 2 * C * L
        of_a_group += L * config.kernel_size * C * 2 * C
        of_a_group += (L - 1) * C * C + L * C * n
    a_frame = mels * mels * config.upsample_kernel + config.groups_per_frame * of_a_group
    return a_frame / FRAME_SECONDS
