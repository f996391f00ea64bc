"""Best times of things that take turns, and the rate of one large product."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

_PRODUCT_SIZE = 1024


def best_times(
    sides: Sequence[Callable[[], object]],
    repeats: int,
    warm_ups: Sequence[Callable[[], object]] | None = None,
    budget: float = float("inf"),
) -> list[float]:
    """The best of `repeats` times of each side, in turn.

    Args:
        sides: called once before that; it pays for imports, caches and tables and does not count.
        repeats: turns, at least 1.
        warm_ups: called once instead of the sides, which should do the same with less.
        budget: no further turn is begun once the turns have taken so many seconds.

    Returns:
        Seconds, a side each.
    """
    for warm_up in sides if warm_ups is None else warm_ups:
        warm_up()
    best, spent = [float("inf")] * len(sides), 0.0
    for _ in range(repeats):
        for i, side in enumerate(sides):
            began = time.perf_counter()
            side()
            seconds = time.perf_counter() - began
            best[i], spent = min(best[i], seconds), spent + seconds
        if spent >= budget:
            break
    return best


def product_rate(repeats: int = 20) -> float:
    """Multiply-adds a second of one large product in single precision, on the threads in use."""
    a = torch.randn(_PRODUCT_SIZE, _PRODUCT_SIZE, generator=torch.Generator().manual_seed(0))
    (seconds,) = best_times([lambda: a @ a], repeats)
    return _PRODUCT_SIZE**3 / seconds
