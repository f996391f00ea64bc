"""Work in several processes, some of which die."""

from __future__ import annotations

import os

import pytest

from lightspeech.dataset.pool import results


def square(number: int) -> int:
    """Dies of 7 wherever it is."""
    if number == 7:
        os._exit(3)
    return number * number


def refuse(number: int) -> int:
    raise OSError(28, f"No space left for {number}")


def test_one_process_works_here() -> None:
    assert list(results(square, [1, 2, 3], 1)) == [(1, 1), (2, 4), (3, 9)]
    assert list(results(square, [], 4)) == []


def test_a_death_costs_one_task() -> None:
    tasks = list(range(12))
    found = dict(results(square, tasks, 2))
    assert found == {task: None if task == 7 else task * task for task in tasks}


def test_an_error_ends_it() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        list(results(refuse, [1, 2, 3], 2))
    assert caught.value.errno == 28
