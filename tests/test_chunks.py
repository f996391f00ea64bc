"""Windows over a long mel cover it once, with context where there is any."""

from __future__ import annotations

import pytest

from lightspeech.vocoders.chunks import Window, windows


def test_windows_by_hand() -> None:
    assert list(windows(10, chunk=4, context=3)) == [
        Window(start=0, stop=7, first=0, last=4),
        Window(start=1, stop=10, first=4, last=8),
        Window(start=5, stop=10, first=8, last=10),
    ]


def test_no_frames_no_windows() -> None:
    assert list(windows(0, chunk=4, context=3)) == []


@pytest.mark.parametrize("n_frames", [1, 2, 3, 50, 64])
@pytest.mark.parametrize("chunk", [1, 2, 5, 64])
@pytest.mark.parametrize("context", [0, 1, 70])
def test_every_frame_is_kept_once_and_has_its_context(
    n_frames: int, chunk: int, context: int
) -> None:
    kept: list[int] = []
    for window in windows(n_frames, chunk, context):
        kept += range(window.first, window.last)
        assert 1 <= window.last - window.first <= chunk
        assert window.start == max(0, window.first - context)
        assert window.stop == min(n_frames, window.last + context)
        assert window.kept == slice(window.first - window.start, window.last - window.start)
    assert kept == list(range(n_frames))


@pytest.mark.parametrize("bad", [(-1, 4, 3), (10, 0, 3), (10, 4, -1)])
def test_sizes_that_make_no_sense(bad: tuple[int, int, int]) -> None:
    with pytest.raises(AssertionError):
        list(windows(*bad))
