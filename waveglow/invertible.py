"""The invertible 1x1 convolution (Kingma and Dhariwal 2018, arXiv:1807.03039)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InvertibleConvolution(nn.Module):
    """Mixes C channels; starts as a random rotation.

    The inverse is computed once, in double precision, when the module goes into evaluation mode and
    when weights are loaded there. In training mode it is computed each time it is asked for.
    """

    kept_inverse: Tensor | None

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_channels, n_channels, 1, bias=False)
        rotation = torch.linalg.qr(torch.randn(n_channels, n_channels))[0]
        rotation[:, 0] *= torch.linalg.det(rotation).sign()  # no mirror image
        with torch.no_grad():
            self.conv.weight.copy_(rotation[:, :, None])
        self.register_buffer("kept_inverse", None, persistent=False)
        self.register_load_state_dict_post_hook(_keep_inverse)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, L) -> the mixed channels (B, C, L) and ln|det W| (); their log-determinant is
        this times B L."""
        weight = self.conv.weight
        log_det = torch.linalg.slogdet(weight[:, :, 0].double())[1]
        return F.conv1d(x, weight), log_det.to(weight.dtype)

    def inverse(self) -> Tensor:
        """(C, C), in the precision of the weight.

        Raises:
            ValueError: the weight cannot be inverted.
        """
        if self.kept_inverse is not None:
            return self.kept_inverse
        weight = self.conv.weight.detach()
        inverse, info = torch.linalg.inv_ex(weight[:, :, 0].double())
        inverse = inverse.to(weight.dtype)
        if not weight.is_meta and (int(info) != 0 or not bool(inverse.isfinite().all())):
            raise ValueError(
                "an invertible convolution of the model cannot be inverted: its "
                f"{len(inverse)} x {len(inverse)} weight is singular or not finite"
            )
        return inverse

    def train(self, mode: bool = True) -> InvertibleConvolution:
        super().train(mode)
        self.kept_inverse = None
        if not mode:
            self.kept_inverse = self.inverse()
        return self


def _keep_inverse(module: nn.Module, _: Any) -> None:
    """Weights were loaded: what was kept is stale."""
    module.train(module.training)
