"""Damaged checkpoints end in one clear line or in an identical model (see tests/fuzzing.py).

Every file format but one has checksums, where the rule is strict. PyTorch's legacy format has none.
There, damage within the numbers of a weight gives other numbers, finite and in their place, which
no reader could notice; the tests hold it to just that. Damage elsewhere in such a file is noticed,
or changes nothing, with two exceptions that take several exact changes at once, so that random
damage never showed them: the keys of two tensors of one shape exchanged within the pickle, and the
strides of a matrix with equal sides turned into those of its transpose, which is how real
checkpoints store some of theirs.

LIGHTSPEECH_FUZZ=2000 makes so many mutations of each file; the default is quick.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from tests import fuzzing
from tests.fuzzing import FIXTURES, Failure, Judge, Victim, bits, mutate, victims, watch

COUNT = int(os.environ.get("LIGHTSPEECH_FUZZ", "40"))
NAMES = (
    "module_zip",
    "module_legacy",
    "module_oldest_legacy",
    "ddp_statedict",
    "safetensors",
    "hifigan_zipped",
    "hifigan_legacy",
)

resource = pytest.importorskip("resource", reason="needs the alarms and limits of Unix")


@pytest.fixture(scope="module")
def all_victims(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Victim]:
    watch()
    return victims(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("name", NAMES)
def test_mutated_files(all_victims: dict[str, Victim], tmp_path: Path, name: str) -> None:
    judge = Judge(all_victims[name], tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = [judge.run(number)[0] for number in range(COUNT)]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert "error" in outcomes
    assert grown < 200, f"{grown:.0f} MB for a file of less than 1 MB"
    if judge.victim.has_checksum:
        assert "weights" not in outcomes


def test_all_files_are_there(all_victims: dict[str, Victim]) -> None:
    assert tuple(all_victims) == NAMES
    assert {n for n, v in all_victims.items() if not v.has_checksum} == {
        "module_legacy",
        "module_oldest_legacy",
        "hifigan_legacy",
    }


def test_mutations_are_reproducible_and_change_the_file() -> None:
    content = bytes(range(256)) * 400
    for number in range(200):
        first, how = mutate(np.random.default_rng(number), content)
        assert mutate(np.random.default_rng(number), content) == (first, how)
    changed = [mutate(np.random.default_rng(n), content)[0] != content for n in range(200)]
    assert sum(changed) > 150  # sections of a regular content may be the same


# The judge itself can say no.


def judged(all_victims: dict[str, Victim], tmp_path: Path, name: str, changed: bytes) -> str:
    judge = Judge(all_victims[name], tmp_path)
    judge.path.write_bytes(changed)
    return judge._outcome(changed)[0]


def test_a_changed_number_is_told_from_other_changes(
    all_victims: dict[str, Victim], tmp_path: Path
) -> None:
    victim = all_victims["module_legacy"]
    (content,) = victim.files.values()
    judge = Judge(victim, tmp_path)
    place, weight = judge.places["upsample.bias"]
    assert bits(weight) == content[place : place + weight.nbytes]
    changed = bytearray(content)
    changed[place] ^= 1
    judge.path.write_bytes(changed)
    assert judge._outcome(bytes(changed))[0] == "weights"
    with pytest.raises(Failure, match=r"upsample\.bias is not what the file has in its place"):
        judge._outcome(content)


def test_the_judge_notices_what_runs_appears_and_hangs(
    all_victims: dict[str, Victim], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge(all_victims["module_zip"], tmp_path)
    (content,) = judge.victim.files.values()
    sound = judge.victim.load
    bad = {
        "something ran": lambda p: (exec("pass"), sound(p))[1],
        "a file appeared": lambda p: (os.close(os.open(p.parent / "x", os.O_CREAT)), sound(p))[1],
        "it took more than": lambda p: [None for _ in iter(int, 1)],
        "RecursionError": lambda p: (_ for _ in ()).throw(RecursionError("too deep")),
        "KeyError": lambda p: {}["nothing"],
        "SystemExit": lambda p: os.sys.exit(1),
    }
    monkeypatch.setattr(fuzzing, "SECONDS", 0.3)
    for message, load in bad.items():
        object.__setattr__(judge.victim, "load", load)
        try:
            with pytest.raises(Failure, match=message):
                judge._outcome(content)
        finally:
            object.__setattr__(judge.victim, "load", sound)
        (tmp_path / "x").unlink(missing_ok=True)


# Changes outside of the numbers that a legacy file could have slipped past the reader.


def legacy() -> bytearray:
    return bytearray((FIXTURES / "waveglow_module_legacy.pt").read_bytes())


def keys_of(content: bytes) -> list[bytes]:
    """The keys of storages, which are numbers of 14 digits, in the order of the file's list."""
    return sorted(set(re.findall(rb"X\x0e\x00\x00\x00(\d{14})q", content)))


def test_two_lists_entries_exchanged(all_victims: dict[str, Victim], tmp_path: Path) -> None:
    content = legacy()
    a, b = (content.rindex(key) for key in keys_of(content)[:2])
    content[a : a + 14], content[b : b + 14] = content[b : b + 14], content[a : a + 14]
    assert judged(all_victims, tmp_path, "module_legacy", bytes(content)) == "error"


def test_a_key_that_becomes_another(all_victims: dict[str, Victim], tmp_path: Path) -> None:
    content = legacy()
    first, second = keys_of(content)[:2]
    place = content.index(first)
    content[place : place + 14] = second
    assert judged(all_victims, tmp_path, "module_legacy", bytes(content)) == "error"


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ((48, 3, 1), (48, 2, 1)),  # elements that lie upon each other
        ((48, 3, 1), (48, 3, 0)),
        ((48, 3, 1), (47, 3, 1)),
        ((48, 3, 1), (49, 3, 1)),  # beyond the storage
        ((32, 16, 3), (16, 32, 3)),  # another shape of as many elements
        ((32, 16, 3), (32, 16, 2)),
    ],
)
def test_shapes_and_strides_that_change(
    all_victims: dict[str, Victim],
    tmp_path: Path,
    was: tuple[int, ...],
    becomes: tuple[int, ...],
) -> None:
    content = legacy()

    def pushed(sizes: tuple[int, ...]) -> bytes:
        return b"".join(b"K" + struct.pack("B", size) for size in sizes) + b"\x87"

    assert pushed(was) in content
    changed = bytes(content).replace(pushed(was), pushed(becomes), 1)
    assert judged(all_victims, tmp_path, "module_legacy", changed) == "error"


def test_an_offset_that_changes(all_victims: dict[str, Victim], tmp_path: Path) -> None:
    content = bytes(legacy())
    place = content.index(b"QK\x00")  # a storage, and an offset of 0
    changed = content[: place + 2] + b"\x01" + content[place + 3 :]
    assert judged(all_victims, tmp_path, "module_legacy", changed) == "error"


def test_sizes_that_the_module_states(all_victims: dict[str, Victim], tmp_path: Path) -> None:
    content = bytes(legacy())
    place = content.index(b"n_flows")
    place = content.index(b"K\x04", place)
    changed = content[: place + 1] + b"\x05" + content[place + 2 :]
    assert judged(all_victims, tmp_path, "module_legacy", changed) == "error"


# The limit: what no reader of such a file can notice (see the top of this file).


def test_keys_exchanged_in_the_pickle_exchange_two_weights(
    all_victims: dict[str, Victim], tmp_path: Path
) -> None:
    judge = Judge(all_victims["module_legacy"], tmp_path)
    content = bytes(legacy())
    first, *others = (content.index(key) for key in keys_of(content))
    unnoticed = 0
    for other in others[:12]:
        changed = bytearray(content)
        changed[first : first + 14] = content[other : other + 14]
        changed[other : other + 14] = content[first : first + 14]
        judge.path.write_bytes(changed)
        try:
            assert judge._outcome(bytes(changed))[0] in ("error", "identical")
        except Failure as e:
            assert "is not what the file has in its place" in str(e)  # noqa: PT017
            unnoticed += 1
    assert 0 < unnoticed < 12  # only those of one shape


def test_strides_of_a_square_matrix_can_be_its_transposes(
    all_victims: dict[str, Victim], tmp_path: Path
) -> None:
    content = bytes(legacy())
    as_stored, in_order = b"K\x01K\x08K\x08\x87", b"K\x08K\x01K\x08\x87"
    assert as_stored in content
    changed = content.replace(as_stored, in_order, 1)
    with pytest.raises(Failure, match=r"convinv\.\d\.conv\.weight is not what the file has"):
        judged(all_victims, tmp_path, "module_legacy", changed)
