"""Labels from recordings: the teacher reads along with a voice that has spoken already.

In teacher-forced mode every frame that the teacher makes follows from the recording's frame before
it, so that its attention is led along the recording (Shen et al. 2018, arXiv:1712.05884, section
3.1; FastSpeech, arXiv:1905.09263, takes its durations from such a pass). The target is then the
recording's own mel, or what the teacher made of each of its frames.

No drop-out. A teacher that speaks by itself needs its pre-net's drop-out, and published code keeps
it on here too. Here it is off, so that a rendition is the same every time and in every batch.
The first bundled teacher, led along 32 utterances of its own, finds the ends of the
tokens 6 ms from where they were, as near as with drop-out (6 to 19 ms, three seeds), and jumps back
less (0.25 times an utterance against 0.28 to 0.5). Along 30 recordings of another voice it jumps
back 3.4 times against 7, though the words begin farther from where a speech recogniser hears them:
96 ms (median of 368) against 80 to 91. What suffers are the mels: on its own voice those of
`targets="teacher"` are 0.32 from the recording (mean absolute difference) against 0.24.

A reader whose pace is not the teacher's can lose it: the attention comes to the end of the text
early and waits there. That shows. Of 23 recordings of the other voice (whose words the recogniser
knows) the 14 with no stay over 70 frames, at most 75 frames at the end and at most 8 jumps back
have a median error of 100 ms at the worst; the other nine have 150 to 780 ms.

Silence at either end of a recording stays: it counts to the first and the last tokens, and a
student will learn it. Cut it before, where it is long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightspeech.audio import FRAME_SECONDS, SILENCE, mel_spectrogram, read_wav
from lightspeech.errors import InputError
from lightspeech.renditions import TARGETS, LabellingSettings, Rendition
from lightspeech.text import SOUND_SUFFIXES, Line, encode

if TYPE_CHECKING:
    from tacotron2 import Tacotron2

_BATCHES_AHEAD = 8  # recordings of so many batches are read and sorted by length
_BATCH_NUMBERS = 1 << 26  # numbers that the decoder may keep for a batch: 256 MB, twice at the end


@dataclass(frozen=True, eq=False)
class _Recorded:
    """A line with its recording."""

    line: Line
    tokens: list[int]
    mel: Tensor  # (T, M)


def forced_renditions(
    lines: Sequence[Line],
    wavs: Path,
    teacher: Tacotron2,
    settings: LabellingSettings,
    device: torch.device | str,
    on_problem: Callable[[Line, str], None],
    *,
    targets: str = "recording",
    corpus: Sequence[Line] | None = None,
) -> Iterator[tuple[Line, Rendition]]:
    """One rendition of each line that has a usable recording.

    Lines are taken some hundreds at a time and come shortest recording first within these.
    Neither the batch nor the order changes a rendition (but for the rounding of sums). Each says
    `stopped`, for it ends where the recording ends, whatever the teacher's gate says, and its seed
    is 0: nothing is drawn.

    Args:
        lines: texts; the recording of the id X is X.wav, X.flac or X.mp3, of any sample rate.
        wavs: the folder of recordings, without its sub-folders.
        teacher: in evaluation mode, on `device`.
        settings: `batch_size` and `max_frames` (of a recording) count.
        on_problem: called for a line without a usable recording, with the reason; the rest goes on.
        targets: the mel of a rendition is the `recording`'s, or the `teacher`'s after the post-net.
        corpus: what `lines` are a share of, where other processes have the rest.

    Raises:
        InputError: `wavs` is no folder, or holds no recording of any line of the corpus.
    """
    if targets not in TARGETS:
        raise InputError(f"targets must be one of {', '.join(TARGETS)}, not {targets!r}")
    assert not teacher.training, "the teacher is in training mode"
    recordings = find_recordings(wavs)
    texts = lines if corpus is None else corpus
    if texts and not any(line.id in recordings for line in texts):
        raise InputError(
            f"none of the {len(recordings):,} sound files in {wavs} belongs to any of the "
            f"{len(texts):,} texts; expected the texts' ids as names, such as {texts[0].id}.wav "
            f"(or {', '.join(SOUND_SUFFIXES[1:])}) for {texts[0].where}; give the texts as id|text"
        )
    return _renditions(lines, recordings, teacher, settings, device, on_problem, targets)


def find_recordings(wavs: Path) -> dict[str, Path]:
    """The sound files of a folder by their names without the suffix; a .wav before a .flac before
    an .mp3 of the same name.

    Raises:
        InputError: it is not a folder, or cannot be read.
    """
    try:
        files = sorted(Path(wavs).iterdir())
    except OSError as e:
        raise InputError(
            f"cannot read the recordings in {wavs} ({e.strerror or e}); expected a folder of "
            "sound files"
        ) from e
    found: dict[str, Path] = {}
    for suffix in SOUND_SUFFIXES:
        for path in files:
            if path.suffix.lower() == suffix:
                found.setdefault(path.stem, path)
    return found


def _renditions(
    lines: Sequence[Line],
    recordings: dict[str, Path],
    teacher: Tacotron2,
    settings: LabellingSettings,
    device: torch.device | str,
    on_problem: Callable[[Line, str], None],
    targets: str,
) -> Iterator[tuple[Line, Rendition]]:
    def recorded() -> Iterator[_Recorded]:
        for line in lines:
            try:
                yield _recorded(line, recordings.get(line.id), settings.max_frames)
            except InputError as e:
                on_problem(line, str(e))

    # What the decoder keeps of each frame, besides the attention: features, mel and gate.
    sizes = teacher.config
    width = sizes.decoder_rnn_dim + sizes.encoder_embedding_dim + sizes.n_mel_channels
    remaining = recorded()
    while window := list(islice(remaining, _BATCHES_AHEAD * settings.batch_size)):
        window.sort(key=lambda item: (len(item.mel), len(item.tokens)))
        for batch in _batches(window, settings.batch_size, width):
            yield from _force(batch, teacher, torch.device(device), targets)


def _recorded(line: Line, path: Path | None, max_frames: int) -> _Recorded:
    """The line with its recording; InputError, short enough to be a reject's reason, if it has
    none that can be used."""
    tokens = encode(line.text)
    if not tokens:
        raise InputError("nothing in it can be spoken")
    if path is None:
        raise InputError(f"no recording by its id ({', '.join(SOUND_SUFFIXES)})")
    # A look at the header first, which may be a bit wrong: a day of sound need not be read.
    if _claimed_seconds(path) > 2 * max_frames * FRAME_SECONDS:
        raise InputError(_too_long(max_frames))
    try:
        wav = read_wav(path)
    except InputError as e:  # without its name, so that rejects can be counted by reason
        raise InputError(str(e).replace(str(path), "its recording")) from e
    if float(wav.abs().max()) <= SILENCE:
        raise InputError("a silent recording")
    mel = mel_spectrogram(wav)
    if len(mel) > max_frames:
        raise InputError(_too_long(max_frames))
    if len(mel) < len(tokens):
        raise InputError("a recording of fewer frames than its text has symbols")
    return _Recorded(line, tokens, mel)


def _too_long(max_frames: int) -> str:
    return f"a recording of more than {max_frames:,} frames ({max_frames * FRAME_SECONDS:.0f} s)"


def _claimed_seconds(path: Path) -> float:
    """What the file says of its length, 0 where it cannot: `read_wav` tells why."""
    import soundfile

    try:
        return float(soundfile.info(path).duration)
    except (soundfile.LibsndfileError, OSError, ZeroDivisionError):
        return 0.0


def _batches(window: Sequence[_Recorded], most_rows: int, width: int) -> Iterator[list[_Recorded]]:
    """Runs of recordings, shortest first, of as many as memory allows."""
    batch: list[_Recorded] = []
    most_tokens = 0
    for item in window:
        most_tokens = max(most_tokens, len(item.tokens))
        numbers = (len(batch) + 1) * len(item.mel) * (most_tokens + width)
        if batch and (len(batch) == most_rows or numbers > _BATCH_NUMBERS):
            yield batch
            batch, most_tokens = [], len(item.tokens)
        batch.append(item)
    if batch:
        yield batch


def _force(
    batch: Sequence[_Recorded], teacher: Tacotron2, device: torch.device, targets: str
) -> list[tuple[Line, Rendition]]:
    tokens = pad_sequence([torch.tensor(item.tokens) for item in batch], batch_first=True)  # (B, N)
    mel = pad_sequence([item.mel for item in batch], batch_first=True)  # (B, T, M)
    with torch.no_grad():
        output = teacher(
            tokens.to(device),
            torch.tensor([len(item.tokens) for item in batch], device=device),
            mel.to(device),
            torch.tensor([len(item.mel) for item in batch], device=device),
            prenet_dropout=0.0,
            padding_leaks=False,
        )
    results = []
    for row, item in enumerate(batch):
        N, T = len(item.tokens), len(item.mel)
        made = item.mel if targets == "recording" else _own(output.mel[row, :T])
        attention, memory = _own(output.attention[row, :T, :N]), _own(output.memory[row, :N])
        results.append((item.line, Rendition(made, attention, memory, stopped=True, seed=0)))
    return results


def _own(values: Tensor) -> Tensor:
    """On the CPU, and with a memory of its own, so that one row does not keep the batch alive."""
    return values.to("cpu", torch.float32, copy=True).contiguous()
