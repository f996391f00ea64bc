"""Files made to run code, or to exhaust memory, time or the stack, are refused; nothing has run."""

from __future__ import annotations

import os
import pickle
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from safeload import (
    CheckpointError,
    Kind,
    PickledObject,
    find_state_dict,
    read_checkpoint_file,
)
from tests.crafted_checkpoints import (
    FORMATS,
    MODULES,
    PLAIN,
    SYSTEM,
    legacy,
    legacy_storage,
    name,
    number,
    program,
    refused,
    storage,
    tensor,
    text,
    zipped,
)

# Code that would run. Each would make the file TARGET if anything of it were executed.


class Calls:
    """Pickled as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def attacks(target: str) -> dict[str, tuple[bytes, str]]:
    """Pickles that would make a file, and how the refusal names what they ask for."""
    mkdir = name(os.mkdir.__module__, "mkdir")
    folder = b"(" + text(target) + b"t"
    posix = rf"{os.mkdir.__module__}\.mkdir"
    shell = f"open({target!r}, 'w')"
    module = name("glow", "WaveGlow")

    def dumped(function: Callable[..., Any], *arguments: Any) -> bytes:
        return pickle.dumps({"toy.a": 1, "x": Calls(function, *arguments)}, protocol=2)

    return {
        "reduce os.mkdir": (dumped(os.mkdir, target), posix),
        "reduce exec": (dumped(exec, shell), r"(__builtin__|builtins)\.exec"),
        "reduce eval": (dumped(eval, shell), r"(__builtin__|builtins)\.eval"),
        "reduce subprocess": (
            program(name("subprocess", "check_call"), b"(](", text("touch"), text(target), b"etR"),
            r"subprocess\.check_call",
        ),
        "protocol 4": (
            pickle.dumps([Calls(os.mkdir, target)], protocol=4),
            posix,
        ),
        "nested in a module": (
            program(module, b")\x81}", text("_modules"), b"}", text("a"), mkdir, folder, b"Rssb"),
            posix,
        ),
        "attribute of a stand-in": (
            program(module, b")\x81", mkdir, folder, b"Rb"),
            posix,
        ),
        "setstate by BUILD": (
            program(module, b")\x81}", text("__setstate__"), mkdir, b"sb", text(target), b"b"),
            posix,
        ),
        "persistent identity": (program(mkdir, folder, b"RQ"), posix),
        "text persistent identity": (
            b"\x80\x02Pos.mkdir\n.",
            "the pickle operation PERSID",
        ),
        "class of a persistent identity": (
            program(b"(", text("storage"), mkdir, text("0"), text("cpu"), number(1), b"tQ"),
            posix,
        ),
        "new object": (program(mkdir, folder, b"\x81"), posix),
        "new object of a layer": (
            program(name("torch.nn.modules.linear", "os"), folder, b"\x81"),
            r"torch\.nn\.modules\.linear\.os",
        ),
        "new object with keywords": (
            program(module, b")}\x92"),
            "the pickle operation NEWOBJ_EX",
        ),
        "instance": (
            program(b"(", text(target), b"i" + os.mkdir.__module__.encode() + b"\nmkdir\n"),
            "the pickle operation INST",
        ),
        "object": (program(b"(", module, text(target), b"o"), "the pickle operation OBJ"),
        "extension 1": (program(b"\x82\x01"), "the pickle operation EXT1"),
        "extension 2": (program(b"\x83\x01\x00"), "the pickle operation EXT2"),
        "extension 4": (program(b"\x84\x01\x00\x00\x00"), "the pickle operation EXT4"),
        "stack global": (
            program(text(os.mkdir.__module__), text("mkdir"), b"\x93", folder, b"R"),
            posix,
        ),
        "through an allowed module": (
            program(name("torch", "load"), folder, b"R"),
            r"torch\.load",
        ),
        "dotted through an allowed module": (
            program(text("glow"), text("WaveGlow.__init__.__globals__"), b"\x93", folder, b"R"),
            r"glow\.WaveGlow\.__init__",
        ),
        "dunder of an allowed module": (
            program(name("glow", "__builtins__"), folder, b"R"),
            r"glow\.__builtins__",
        ),
        "a function among the layers": (
            program(name("torch.nn.modules.module", "register_module_forward_hook"), folder, b"R"),
            r"torch\.nn\.modules\.module\.register",
        ),
        "a class of torch that is no layer": (
            program(name("torch.multiprocessing", "Process"), folder, b"R"),
            r"torch\.multiprocessing\.Process",
        ),
        "copyreg": (program(name("copyreg", "_reconstructor"), folder, b"R"), "_reconstructor"),
        "buffers out of band": (program(b"\x97"), "the pickle operation NEXT_BUFFER"),
    }


@pytest.mark.parametrize("kind", [PLAIN, MODULES], ids=["weights", "modules"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("attack", attacks(""))
def test_nothing_that_a_pickle_asks_for_is_run(
    tmp_path: Path, attack: str, form: str, kind: Kind
) -> None:
    target = tmp_path / "made by the pickle"
    code, asked = attacks(str(target))[attack]
    path = FORMATS[form](tmp_path / "evil.pt", code)
    if kind is PLAIN and b"glow" in code:  # already the harmless class is too much to ask for
        asked = r"glow\.|is a whole pickled WaveGlow"
    refused(path, rf"(asks to run code while it is read \(.*)?({asked})", kind)
    assert not target.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["evil.pt"]


def test_the_attacks_would_work_elsewhere(tmp_path: Path) -> None:
    """Python's own reader runs the first of them: what the tests above guard against is real."""
    target = tmp_path / "made by the pickle"
    code, _ = attacks(str(target))["reduce os.mkdir"]
    pickle.loads(code)  # noqa: S301 - a pickle of our own, in a folder of our own
    assert target.exists()


def test_a_machine_description_cannot_run_code_either(tmp_path: Path) -> None:
    target = tmp_path / "made by the pickle"
    path = legacy(tmp_path / "evil.pt", program(b"}"))
    content = path.read_bytes()
    evil = pickle.dumps(Calls(os.mkdir, str(target)), protocol=2)
    start = content.index(b".", 15) + 1  # after the protocol number
    path.write_bytes(content[:start] + evil + content[start:])
    refused(path, r"asks to run code while it is read \(.*mkdir\)")
    assert not target.exists()


@pytest.mark.parametrize("form", FORMATS)
def test_classes_of_listed_modules_are_data_and_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    trap = tmp_path / "on the path"
    trap.mkdir()
    (trap / "glow.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(trap))
    monkeypatch.delitem(sys.modules, "glow", raising=False)
    code = program(name("glow", "WaveGlow"), b")\x81}", text("n_flows"), number(4), b"sb")
    found = read_checkpoint_file(FORMATS[form](tmp_path / "m.pt", code), MODULES).content
    assert isinstance(found, PickledObject)
    assert (found.name, found.state) == ("glow.WaveGlow", {"n_flows": 4})
    assert "glow" not in sys.modules


@pytest.mark.parametrize(
    ("module", "of"),
    [
        ("torch.nn.modules.linear", "Linear"),
        ("torch.nn.utils.weight_norm", "WeightNorm"),
        ("torch.nn.backends.thnn", "_get_thnn_function_backend"),
    ],
)
def test_layers_are_data_only_where_whole_modules_are_read(
    tmp_path: Path, module: str, of: str
) -> None:
    path = zipped(tmp_path / "m.pt", program(name(module, of), b")\x81"))
    found = read_checkpoint_file(path, MODULES).content
    assert isinstance(found, PickledObject)
    refused(path, rf"asks to run code while it is read \({module}\.{of}\)", PLAIN)


# Files made to exhaust memory, time or the stack. Each is small.

PART = name("glow", "WN") + b")\x81"


def deep_files() -> dict[str, bytes]:
    deep = 100_000
    return {
        "tuples": program(b")" + b"\x85" * deep),
        "tuple as a key": program(b"}", b")" + b"\x85" * deep, b"Ns"),
        "lists": program(b"]" * deep + b"a" * (deep - 1)),
        "dictionaries": program((b"}" + b"N") * deep + b"N" + b"s" * deep),
        "objects": program(*[PART + b"}" + text("a") for _ in range(20_000)], b"N", b"sb" * 20_000),
        "modules": program(
            *[PART + b"}" + text("_modules") + b"}" + text("a") for _ in range(20_000)],
            b"N",
            b"ssb" * 20_000,
        ),
    }


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("deep", deep_files())
def test_deep_files_do_not_end_the_process(tmp_path: Path, deep: str, form: str) -> None:
    path = FORMATS[form](tmp_path / "deep.pt", deep_files()[deep])
    refused(path, "damaged|makes no sense|none of Toy's|holds a")


def bombs() -> dict[str, bytes]:
    half = struct.pack("<I", 2**32 - 1)
    wide = b"(" + b"".join(number(i) + b"N" for i in range(3000)) + b"d"
    return {
        "a module within itself": program(
            PART, b"q\x00}", text("_modules"), b"}", text("toy"), b"h\x00ssb"
        ),
        "a list within itself": program(b"]q\x00h\x00a"),
        "a state dict within itself": program(b"}q\x00", text("state_dict"), b"h\x00s"),
        "a memo index of 2**31": program(b"]r\x00\x00\x00\x800"),
        "a memo that is not there": program(b"j\x00\x00\x00\x80"),
        "a text of 4 GB": b"\x80\x02X" + half + b"abc.",
        "a text of 2**63 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**63 - 1) + b"abc.",
        "bytes of 4 GB": b"\x80\x03B" + half + b"abc.",
        "bytes of 2**60 bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc.",
        "a number of 2 GB": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"abc.",
        "a number of -1 bytes": b"\x80\x02\x8b" + struct.pack("<i", -1) + b"abc.",
        "a frame of 2**63 bytes": b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"N.",
        "a number of many digits": program(b"}", b"I" + b"9" * 100_000 + b"\n", b"Ns"),
        "a key of many digits": program(
            b"}", b"\x8b" + struct.pack("<i", 10_000) + b"\x7f" * 10_000, b"Ns"
        ),
        "ordered dictionaries of one list": program(
            b"](" + b"".join(number(i) + b"N\x86" for i in range(3000)) + b"eq\x00",
            *[name("collections", "OrderedDict") + b"h\x00\x85R" for _ in range(3000)],
            b"\x86" * 2999,
        ),
        "objects with one dictionary": program(wide, b"q\x00", *[PART + b"h\x00b"] * 3000, b"t"),
        "modules with the same parameters": program(
            wide,
            b"q\x00",
            b"}q\x010}",
            text("_parameters"),
            b"h\x00sq\x020",
            *[PART + b"h\x02b" for _ in range(3000)],
            b"t",
        ),
        "sets of one list": program(
            b"](" + b"N" * 3000 + b"eq\x00(",
            *[name("builtins", "set") + b"h\x00\x85R" for _ in range(3000)],
            b"l",
        ),
        "sizes of one list": program(
            b"](" + b"N" * 3000 + b"eq\x00(",
            *[name("torch", "Size") + b"h\x00\x85R" for _ in range(3000)],
            b"l",
        ),
        "a stack that is empty": program(b"s"),
        "marks only": program(b"(" * 1000),
        "no end": b"\x80\x02" + b"N" * 1000,
        "a tuple of the mark": program(b"(\x85"),
    }


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("bomb", bombs())
def test_small_files_take_little_memory(tmp_path: Path, bomb: str, form: str) -> None:
    path = FORMATS[form](tmp_path / "bomb.pt", bombs()[bomb])
    size = path.stat().st_size
    tracemalloc.start()
    try:
        refused(path, "damaged|makes no sense|none of Toy's|holds a")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4e6 + 200 * size, f"{peak:,} bytes for a file of {size:,}"


def test_a_dictionary_that_is_referred_to_over_and_over(tmp_path: Path) -> None:
    """Describing what a file holds must not list 3,000 times the same 3,000 names."""
    wide = b"(" + b"".join(text(f"n{i}") + b"N" for i in range(3000)) + b"dq\x00"
    again = b"(" + b"".join(text(f"m{i}") + b"h\x00" for i in range(3000)) + b"d"
    path = zipped(tmp_path / "bomb.pt", program(b"}", text("x"), wide, b"s0", again))
    tracemalloc.start()
    refused(path, "none of Toy's weights")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e7


def test_children_with_the_same_parameters(tmp_path: Path) -> None:
    """400 modules that all refer to one dictionary of 400 names: 160,000 weights in 20 kB."""
    names = [text(f"n{i}") + b"h\x00" for i in range(400)]
    shared = b"}" + text("_parameters") + b"}(" + b"".join(names) + b"us"
    children = [text(str(i)) + PART + b"h\x01b" for i in range(400)]
    code = program(
        *(tensor(storage("0", 1), (1,), (1,)), b"q\x000", shared, b"q\x010"),
        *(PART, b"}", text("_modules"), b"}(", *children, b"usb"),
    )
    path = zipped(tmp_path / "bomb.pt", code, {"0": bytes(4)})
    refused(path, "makes no sense .more than 100000 parts")


def test_a_module_in_two_places(tmp_path: Path) -> None:
    children = [text("a"), PART, b"q\x00", text("b"), b"h\x00"]
    code = program(PART, b"}", text("_modules"), b"}(", *children, b"usb")
    refused(
        zipped(tmp_path / "m.pt", code), r"makes no sense .[ab]\. in it is no module of its own"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        program(b"}", text("x\ny"), b"Ns"),
        program(b"}", text("x" * 100_000), b"Ns"),
        program(text("glow"), text("Wave\nGlow"), b"\x93)\x81}", text("_modules"), b"Nsb"),
        program(text("glow"), text("W" * 100_000), b"\x93)\x81}", text("_modules"), b"Nsb"),
        program(PART, b"}", text("_modules"), b"}", text("x\ny"), b"]ssb"),
        program(text("o\ns"), text("mkdir"), b"\x93"),
        program(text("os"), text("mkdir" * 100_000), b"\x93"),
        program(
            b"}", text("toy.a\nb"), b"]s", text("toy.c"), tensor(storage("0", 1), (1,), (1,)), b"s"
        ),
    ],
)
def test_names_in_messages_are_short_and_on_one_line(tmp_path: Path, wrong: bytes) -> None:
    path = zipped(tmp_path / "names.pt", wrong, {"0": bytes(4)})
    with pytest.raises(CheckpointError) as caught:
        find_state_dict(read_checkpoint_file(path, MODULES))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1200


def test_long_names_of_nested_modules_do_not_multiply(tmp_path: Path) -> None:
    """A chain of 5,000 modules whose names are 10,000 letters long, all of them one text."""
    parts = [b"h\x00", *[PART + b"}" + text("_modules") + b"}h\x00" for _ in range(5000)]]
    code = program(text("n" * 10_000), b"q\x000", *parts[1:], b"N", b"ssb" * 5000)
    path = zipped(tmp_path / "bomb.pt", code)
    tracemalloc.start()
    refused(path, "makes no sense .*names of parts")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e7


def test_a_zip_bomb(tmp_path: Path) -> None:
    code = program(b"}", text("toy.a"), tensor(storage("0", 2**24), (2**24,), (1,)), b"s")
    zeros = bytes(4 * 2**24)
    path = zipped(tmp_path / "a.pt", code, {"0": zeros}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    refused(path, "is compressed")
    pickles = zipped(tmp_path / "b.pt", program(b"N" * 2**22), compression=zipfile.ZIP_DEFLATED)
    refused(pickles, "is compressed")


def test_overlapping_entries_are_not_counted_twice(tmp_path: Path) -> None:
    """One megabyte that a thousand entries of the directory point to."""
    entries = 1000
    code = program(
        b"}",
        *[
            text(f"toy.{i}") + tensor(storage(str(i), 2**18), (2**18,), (1,)) + b"s"
            for i in range(entries)
        ],
    )
    path = tmp_path / "overlap.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", code)
        archive.writestr("archive/data/0", bytes(2**20))
        first = archive.getinfo("archive/data/0")
        for i in range(1, entries):
            copy = zipfile.ZipInfo(f"archive/data/{i}")
            for field in ("header_offset", "CRC", "compress_size", "file_size"):
                setattr(copy, field, getattr(first, field))
            archive.filelist.append(copy)
            archive.NameToInfo[copy.filename] = copy
        archive._didModify = True
    assert path.stat().st_size < 2 * 2**20
    refused(path, "cut short or damaged")


# Tensors that do not fit their storage.


def single(stored: bytes, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    return program(b"}", text("toy.a"), tensor(stored, size, stride, offset), b"s")


TENSORS: dict[str, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    "too many elements": ((13,), (1,), 0),
    "an offset too far": ((12,), (1,), 1),
    "a stride too far": ((3, 4), (5, 1), 0),
    "2**40 elements of one": ((2**40,), (0,), 0),
    "2**40 elements in two axes": ((2**20, 2**20), (0, 0), 0),
    "sizes whose product overflows": ((2**40, 2**40), (0, 0), 0),
    "a negative size": ((-1,), (1,), 0),
    "two negative sizes": ((-3, -4), (4, 1), 0),
    "a negative stride": ((12,), (-1,), 11),
    "a negative offset": ((2,), (1,), -1),
    "a huge offset": ((1,), (1,), 2**63),
    "a huge empty size": ((0, 2**62), (1, 1), 0),
    "more strides than sizes": ((12,), (1, 1), 0),
    "twenty axes": ((1,) * 20, (1,) * 20, 0),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("wrong", TENSORS)
def test_tensors_stay_within_their_storage(tmp_path: Path, wrong: str, form: str) -> None:
    stored = (storage if form == "zip" else legacy_storage)("0", 12)
    path = FORMATS[form](tmp_path / "t.pt", single(stored, *TENSORS[wrong]), {"0": bytes(48)})
    refused(path, "cut short or damaged .*tensor")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("count", [2**40, 2**62, 2**200, -1, 11, 13])
def test_declared_lengths_are_those_of_the_file(tmp_path: Path, count: int, form: str) -> None:
    stored = (storage if form == "zip" else legacy_storage)("0", count)
    path = FORMATS[form](tmp_path / "t.pt", single(stored, (1,), (1,)), {"0": bytes(48)})
    refused(path, "cut short or damaged")


@pytest.mark.parametrize("entry", ["data.pkl", "data/0"])
@pytest.mark.parametrize("lengths", ["compress_size", "file_size", "compress_size file_size"])
def test_lengths_in_a_zip_that_the_file_has_no_room_for(
    tmp_path: Path, entry: str, lengths: str
) -> None:
    """Python's reader asks for that much memory before it has seen a byte."""
    path = zipped(tmp_path / "a.pt", single(storage("0", 1), (1,), (1,)), {"0": bytes(4)})
    with zipfile.ZipFile(path, "a") as archive:
        for length in lengths.split():
            setattr(archive.getinfo(f"archive/{entry}"), length, 2**28)
        archive._didModify = True
    tracemalloc.start()
    refused(path, f"{entry} in it is compressed")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e7


@pytest.mark.parametrize(
    ("form", "n_tensors", "count"), [("zip", 1, 2**28), ("legacy", 1, 2**28), ("legacy", 2, 2000)]
)
def test_tensors_have_room_in_the_file_together(
    tmp_path: Path, form: str, n_tensors: int, count: int
) -> None:
    """No memory is asked for before that is known."""
    stored = storage if form == "zip" else legacy_storage
    parts = [text(f"toy.{i}") + stored(str(i), count) + b"s" for i in range(n_tensors)]
    contents = {str(i): bytes(8000 // n_tensors) for i in range(n_tensors)}
    path = FORMATS[form](tmp_path / "t.pt", program(b"}", *parts), contents)
    assert 8000 < path.stat().st_size < 16_000
    refused(path, "its tensors are longer than the file")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("other", [(13, "FloatStorage"), (12, "IntStorage")])
def test_a_storage_is_of_one_type_and_length(
    tmp_path: Path, other: tuple[int, str], form: str
) -> None:
    stored = storage if form == "zip" else legacy_storage
    code = program(b"}", text("toy.a"), stored("0", 12), b"s", text("b"), stored("0", *other), b"s")
    path = FORMATS[form](tmp_path / "t.pt", code, {"0": bytes(48)})
    refused(path, "tensor 0 has two lengths")


def test_a_legacy_length_that_disagrees_with_its_tensor(tmp_path: Path) -> None:
    path = legacy(tmp_path / "t.pt", single(legacy_storage("0", 12), (12,), (1,)), {"0": bytes(48)})
    whole = path.read_bytes()
    for count in (-1, 11, 2**40, 2**62):
        path.write_bytes(whole[:-56] + struct.pack("<q", count) + bytes(48))
        refused(path, "tensor 0 has another length")


def test_a_legacy_tensor_of_which_one_element_is_left(tmp_path: Path) -> None:
    path = legacy(tmp_path / "t.pt", single(legacy_storage("0", 12), (12,), (1,)), {"0": bytes(48)})
    path.write_bytes(path.read_bytes()[:-44])
    refused(path, "tensor 0 has another length")


@pytest.mark.parametrize(
    ("old", "new", "message"), [(1001, 1000, "its protocol is 1000"), (SYSTEM, [], "its protocol")]
)
def test_legacy_files_of_another_sort(tmp_path: Path, old: Any, new: Any, message: str) -> None:
    path = legacy(tmp_path / "t.pt", program(b"}"))
    whole, old = path.read_bytes(), pickle.dumps(old, protocol=2)
    assert whole.count(old) == 1
    path.write_bytes(whole.replace(old, pickle.dumps(new, protocol=2)))
    refused(path, message)


def test_bytes_that_are_neither_true_nor_false(tmp_path: Path) -> None:
    code = single(storage("0", 3, "BoolStorage"), (3,), (1,))
    path = zipped(tmp_path / "b.pt", code, {"0": b"\0\1\2"})
    found = read_checkpoint_file(path, PLAIN).content["toy.a"]
    assert found.view(torch.uint8).tolist() == [0, 1, 1]


def test_keys_that_the_legacy_list_exchanges(tmp_path: Path) -> None:
    code = program(
        b"}",
        *[
            text(f"toy.{key}") + tensor(legacy_storage(key, 2), (2,), (1,)) + b"s"
            for key in ("10", "11")
        ],
    )
    path = legacy(tmp_path / "t.pt", code, {"10": bytes(8), "11": b"\x01" * 8})
    whole = path.read_bytes()
    assert torch.equal(read_checkpoint_file(path, PLAIN).content["toy.10"], torch.zeros(2))
    first, second = whole.rindex(b"10"), whole.rindex(b"11")
    exchanged = bytearray(whole)
    exchanged[first : first + 2], exchanged[second : second + 2] = b"11", b"10"
    path.write_bytes(exchanged)
    refused(path, "list of tensors is another")


def test_weights_whose_elements_lie_upon_each_other(tmp_path: Path) -> None:
    path = tmp_path / "expanded.pt"
    torch.save({"toy.a": torch.ones(3, 1).expand(3, 4)}, path)
    refused(path, r"damaged \(a tensor beyond its storage\)")
    torch.save({"toy.a": torch.arange(20.0).as_strided((4, 4), (3, 1))}, path)
    refused(path, "elements of toy.a lie upon each other")
    views = {
        "toy.t": torch.ones(4, 3).t(),
        "toy.s": torch.ones(8, 8)[::3, 1:5],
        "toy.0": torch.ones(()),
        "toy.1": torch.arange(8.0).as_strided((4, 1), (1, 2)),
        "toy.e": torch.ones(1, 0).expand(3, 0),
    }
    torch.save(views, path)
    assert list(find_state_dict(read_checkpoint_file(path, PLAIN))) == list(views)


def test_a_torchscript_program(tmp_path: Path) -> None:
    path = zipped(tmp_path / "s.pt", single(storage("0", 1), (1,), (1,)), {"0": bytes(4)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/constants.pkl", program(b")"))
    refused(path, "is a TorchScript program, not a checkpoint")


def test_big_endian_machines(tmp_path: Path) -> None:
    code = single(storage("0", 1), (1,), (1,))
    refused(zipped(tmp_path / "z.pt", code, {"0": bytes(4)}, byteorder=b"big"), "big-endian")
    refused(legacy(tmp_path / "l.pt", program(b"}"), little_endian=False), "big-endian")


@pytest.mark.parametrize(
    "code",
    [
        program(b"(", text("storage"), text("no class"), text("0"), text("cpu"), number(1), b"tQ"),
        program(b"(", text("elsewhere"), number(1), b"tQ"),
        program(b"]Q"),
        program(b")Q"),
        program(number(3), b"Q"),
        program(b"(", text("module"), text("glow.py"), text("x"), text("y"), b"tQ"),
        program(text("a"), b")R"),
        program(name("torch._utils", "_rebuild_tensor_v2"), b")R"),
        program(name("torch._utils", "_rebuild_parameter"), text("a"), b"\x85R"),
        program(b"]", text("a"), b"b"),
        program(name("glow", "WN"), b")\x81}", text("a"), b"Nsb}", text("a"), b"Nsb"),
        program(b"]", text("a"), b"Ns"),
        program(text("a"), number(1), b"\x93"),
        program(b"}", b"]", b"Ns"),
        program(name("collections", "OrderedDict"), text("ab"), b"\x85R"),
        program(b"(\x85"),
        program(b"NN"),
    ],
)
@pytest.mark.parametrize("form", FORMATS)
def test_pickles_that_make_no_sense(tmp_path: Path, code: bytes, form: str) -> None:
    refused(FORMATS[form](tmp_path / "odd.pt", code), "cut short or damaged")
