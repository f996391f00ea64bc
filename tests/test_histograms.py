"""Histograms: every value counted once, in round bins, and drawn where it belongs."""

from __future__ import annotations

import re

import numpy as np
import pytest

from lightspeech.evaluation.histograms import draw_histogram, histogram, plain


@pytest.mark.parametrize("whole", [False, True])
def test_any_values_fall_into_round_bins(whole: bool) -> None:
    random = np.random.default_rng(3)
    for scale in (1e-6, 1e-3, 1.0, 40.0, 1e5):
        for offset in (0.0, -3.0, 7.5, 1e6):
            values = offset + scale * random.standard_normal(50)
            values = np.round(values) if whole else values
            rejected = offset + 3 * scale * random.standard_normal(20)
            limits = [offset - scale, offset + 100 * scale]
            shape = histogram(values, rejected, limits, whole=whole)
            edges = np.array(shape.edges)
            assert (np.diff(edges) > 0).all()
            assert list(shape.counts) == np.histogram(values, edges)[0].tolist()
            assert sum(shape.counts) == 50
            assert len(shape.counts) <= 42
            assert shape.rejected_below + sum(shape.rejected) + shape.rejected_above == 20
            drawn = draw_histogram(
                shape, title="t", description="d", low=limits[0], high=limits[1], anchor="a"
            )
            assert "nan" not in drawn
            widths = [float(w) for w in re.findall(r'width="([^"]+)"', drawn)]
            assert all(0 < width <= 320 for width in widths)


def test_whole_numbers_have_bins_of_their_own() -> None:
    shape = histogram(np.array([0.0, 0, 1, 3]), np.array([5.0, 90]), [4], whole=True)
    assert shape.edges == (-0.5, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5)
    assert shape.counts == (2, 1, 0, 1, 0, 0)
    assert (shape.rejected, shape.rejected_above) == ((0, 0, 0, 0, 0, 1), 1)
    drawn = draw_histogram(shape, title="<t>", description="d & d", high=4, anchor="a")
    assert "&lt;t&gt;" in drawn
    assert "d &amp; d" in drawn
    assert "0: 2 kept" in drawn
    assert "limit 4<" in drawn
    assert re.findall(r'class="tick"[^>]*>([^<]*)<', drawn) == ["0", "2", "4"]
    assert "1 \u2192" in drawn  # the reject that is too far out to be shown


def test_what_lies_on_the_border_is_counted_inside() -> None:
    shape = histogram(np.array([0.0, 1.0]), np.array([0.0, 1.0, -50.0]), whole=False)
    assert (shape.edges[0], shape.edges[-1]) == (0, 1)
    assert (shape.rejected[0], shape.rejected[-1]) == (1, 1)
    assert (shape.rejected_below, shape.rejected_above) == (1, 0)


def test_numbers_are_short() -> None:
    values = [0, -0.0, 1, 0.85, 0.0042, -0.0001, -4, 43.21, 999.6, 12345.6]
    expected = ["0", "0", "1", "0.85", "0.004", "0", "\u22124", "43.2", "1,000", "12,346"]
    assert [plain(value) for value in values] == expected


def test_two_whole_numbers_have_whole_ticks() -> None:
    shape = histogram(np.array([1.0, 1, 2]), np.zeros(0), whole=True)
    drawn = draw_histogram(shape, title="t", description="d", anchor="a")
    assert re.findall(r'class="tick"[^>]*>([^<]*)<', drawn) == ["1", "2"]
