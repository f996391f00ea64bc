"""A critic of mel patches: the student has to say frames that could be the teacher's.

Absolute and squared errors are least for the mean of all that the teacher might have said, which is
smoother than anything it says. A small network that learns to tell patches of the one from patches
of the other (least-squares GAN, Mao et al. 2016, arXiv:1611.04076) makes smoothness cost something;
that its inner features agree too (Larsen et al. 2015, arXiv:1512.09300) keeps it steady. The critic
learns in the same backward pass as the student, each from its own terms, and is never part of a
voice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lightspeech.audio import N_MELS

PATCH_FRAMES = 96
"""frames (1.1 s) of each utterance that the critic hears at a step, at a random place"""
CHANNELS = (24, 48, 64, 64)
"""of its layers; the first three halve the mel's bins, and the second and third its frames"""
SLOPE = 0.2
"""of its leaky rectifiers"""
MIDDLE, SPREAD = -5.0, 4.0
"""about the mean and twice the deviation of log-mels of speech, by which the critic scales them"""


class Critic(nn.Module):
    """Layers of two-dimensional convolutions over a mel, and a score for every place of the last.

    Beside the mel it hears the number of the bin, since the same shape means another thing higher
    up.
    """

    def __init__(self) -> None:
        super().__init__()
        first, second, third, fourth = CHANNELS
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(2, first, (3, 5), stride=(1, 2), padding=(1, 2)),
                nn.Conv2d(first, second, (3, 5), stride=(2, 2), padding=(1, 2)),
                nn.Conv2d(second, third, (3, 5), stride=(2, 2), padding=(1, 2)),
                nn.Conv2d(third, fourth, 3, padding=1),
            ]
        )
        self.score = nn.Conv2d(fourth, 1, 3, padding=1)

    def forward(self, mel: Tensor) -> list[Tensor]:
        """mel (B, T, M), log -> the layers' outputs (B, C, T', M'), the last of them the scores
        (B, 1, T', M'): about 1 for the teacher's, 0 for the student's."""
        bins = torch.linspace(-1, 1, mel.shape[2], device=mel.device, dtype=mel.dtype)
        x = torch.stack(((mel - MIDDLE) / SPREAD, bins.expand_as(mel)), 1)
        found = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            found.append(x)
        return [*found, self.score(x)]


class AdversarialLoss(nn.Module):
    """What the critic makes of a batch, and what that means for the student."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = Critic()

    def forward(self, spoken: Tensor, real: Tensor, frames: Tensor) -> dict[str, Tensor]:
        """Compares patches of both, drawn from PyTorch's global generator.

        Args:
            spoken: (B, T, N_MELS) the student's mels.
            real: (B, T, N_MELS) the teacher's.
            frames: (B,) frames of each utterance.

        Returns:
            three terms, each the sum over utterances of a mean: `critic`, whose gradient is the
            critic's alone; `adversarial` and `features`, whose gradients are the student's alone.
        """
        assert spoken.shape == real.shape, (spoken.shape, real.shape)
        assert spoken.shape[2] == N_MELS, spoken.shape
        rows = _patches(frames).unsqueeze(2).expand(-1, -1, N_MELS)  # (B, P, M)
        spoken, real = spoken.gather(1, rows), real.gather(1, rows)
        of_real = self.critic(real)
        *_, of_spoken = self.critic(spoken.detach())
        critic = (of_real[-1] - 1).square() + of_spoken.square()
        # The same critic once more, which here is only a judge: nothing of this is to change it.
        weights = {name: value.detach() for name, value in self.critic.named_parameters()}
        judged = functional_call(self.critic, weights, (spoken,))
        features = [_means(a - b.detach()) for a, b in zip(judged[:-1], of_real[:-1], strict=True)]
        return {
            "critic": critic.mean((1, 2, 3)).sum(),
            "adversarial": (judged[-1] - 1).square().mean((1, 2, 3)).sum(),
            "features": torch.stack(features).mean(0).sum(),
        }


def _patches(frames: Tensor) -> Tensor:
    """(B,) frames of each utterance -> (B, P) the frames of a patch of each, all equally long."""
    length = min(PATCH_FRAMES, int(frames.min()))
    room = frames - length + 1
    starts = (torch.rand(len(frames)).to(frames.device) * room).long().clamp(max=room - 1)
    return starts.unsqueeze(1) + torch.arange(length, device=frames.device)


def _means(differences: Tensor) -> Tensor:
    """(B, C, T', M') -> (B,) mean absolute values."""
    return differences.abs().mean((1, 2, 3))
