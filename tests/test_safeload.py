"""Checkpoint files are read as data: what torch.load would give, and nothing that they ask for."""

from __future__ import annotations

import collections
import errno
import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from safeload import (
    CheckpointError,
    check_shapes,
    find_state_dict,
    read_checkpoint_file,
    single_precision,
    write_checkpoint,
)
from tests.crafted_checkpoints import (
    FACTS,
    MODULES,
    PLAIN,
    legacy,
    name,
    number,
    program,
    refused,
    storage,
    tensor,
    text,
    zipped,
)

# What torch.save writes is what is read.


def plain_contents() -> dict[str, Any]:
    """Tensors of every sort that plain state dicts hold, and what training leaves beside them."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 5, generator=generator)
    odd = torch.randn(40, generator=generator)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], lr=1e-3)
    return {
        "float32": base,
        "float64": base.double() * 1e-200,
        "float16": base.half(),
        "bfloat16": base.bfloat16(),
        "int64": torch.arange(-3, 9).reshape(3, 4),
        "int32": torch.tensor([2**31 - 1, -(2**31)], dtype=torch.int32),
        "int16": torch.tensor([[-5]], dtype=torch.int16),
        "int8": torch.tensor([-128, 127], dtype=torch.int8),
        "uint8": torch.arange(256, dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0),
        "empty matrix": torch.empty(3, 0, 2),
        "transposed": base.t(),
        "every other": base[::2, 1:4],
        "overlapping": odd.as_strided((8, 4), (3, 1), 2),
        "expanded": odd[:1].expand(7),
        "same storage": odd[10:20],
        "parameter": torch.nn.Parameter(base.clone()),
        "no gradient": torch.nn.Parameter(base.clone(), requires_grad=False),
        "ordered": collections.OrderedDict([("b", base), ("a", torch.tensor(1))]),
        "optimizer": optimizer.state_dict(),
        "numbers": [1, -1, 255, 65536, 2**40, -(2**70), 1.5, float("inf"), True, None],
        "texts": ("", "Grüße", "a" * 300),
        "nested": {1: [{"x": (1, (2, [3]))}], None: {}, 2.5: ()},
        "size": torch.Size([2, 3]),
    }


def same(found: Any, expected: Any) -> bool:
    """Equal bit for bit, with types, shapes and strides of tensors."""
    if isinstance(expected, Tensor):
        return (
            isinstance(found, Tensor)
            and found.dtype == expected.dtype
            and found.stride() == expected.stride()
            and torch.equal(found, expected)
        )
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[k], expected[k]) for k in expected)
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    return type(found) is type(expected) and found == expected


@pytest.mark.parametrize(
    ("new_format", "protocol"),
    [(True, 2), (True, 3), (True, 4), (True, 5), (False, 2), (False, 3)],
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # torch.load doubts all but 2
def test_reads_what_torch_reads(tmp_path: Path, new_format: bool, protocol: int) -> None:
    path = tmp_path / "plain.pt"
    contents = plain_contents()
    torch.save(
        contents,
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=new_format,
    )
    # It reads no newer pickles; what it would give is what was saved.
    expected = torch.load(path, weights_only=True) if protocol < 4 else contents
    found = read_checkpoint_file(path, PLAIN).content
    assert list(found) == list(contents)
    for key, value in expected.items():
        assert same(found[key], value), key


def test_the_comparison_with_torch_can_fail() -> None:
    for key, value in plain_contents().items():
        if isinstance(value, Tensor) and value.numel():
            changed = value.detach().clone()
            first = (0,) * value.dim()
            changed[first] = 0 if changed[first] else 1
            assert not same(changed, value), key
            assert not same(value.detach().to(torch.complex64), value), key


def test_numbers_of_numpy_in_a_training_checkpoint(tmp_path: Path) -> None:
    contents = {"toy.a": torch.ones(2), "rate": np.float64(1e-3), "step": np.int64(7)}
    for new_format in (True, False):
        torch.save(contents, tmp_path / "n.pt", _use_new_zipfile_serialization=new_format)
        found = read_checkpoint_file(tmp_path / "n.pt", PLAIN).content
        assert torch.equal(found["toy.a"], torch.ones(2))
        assert list(found) == ["toy.a", "rate", "step"]  # the numbers are there, as data unread


def test_parts_of_storages_as_before_pytorch_0_4(tmp_path: Path) -> None:
    identity = text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + number(5)
    part = b"(" + identity + b"(" + text("1") + number(2) + number(3) + b"ttQ"  # from 2, 3 of them
    code = program(
        b"}",
        text("toy.whole"),
        tensor(part, (3,), (1,)),
        b"s",
        text("toy.end"),
        tensor(part, (2,), (1,), 1),
        b"s",
    )
    path = legacy(tmp_path / "old.pt", code, {"0": struct.pack("<5f", *range(5))})
    expected = torch.load(path, weights_only=True)
    assert expected["toy.whole"].tolist() == [2, 3, 4]
    found = read_checkpoint_file(path, PLAIN).content
    assert {n: w.tolist() for n, w in found.items()} == {n: w.tolist() for n, w in expected.items()}
    beyond = program(b"}", text("toy.a"), tensor(part, (3,), (1,), 1), b"s")
    refused(legacy(tmp_path / "beyond.pt", beyond, {"0": bytes(20)}), "tensor beyond its storage")


# What is found in a file.


def test_ordered_dictionaries_of_python_2(tmp_path: Path) -> None:
    """It wrote them as a call with a list of pairs, and its texts as bytes without an encoding."""
    pairs = b"]](U\x05toy.a" + tensor(storage("0", 1), (1,), (1,)) + b"ea"
    code = program(name("collections", "OrderedDict"), pairs, b"\x85R")
    path = zipped(tmp_path / "old.pt", code, {"0": struct.pack("<f", 3)})
    assert find_state_dict(read_checkpoint_file(path, PLAIN))["toy.a"].tolist() == [3.0]


@pytest.mark.parametrize("place", [None, "state_dict", "model", "generator"])
def test_finds_the_state_dict(tmp_path: Path, place: str | None) -> None:
    weights = {"module.toy.a": torch.ones(1), "module.module.toy.b": torch.zeros(1)}
    torch.save(weights if place is None else {place: weights, "step": 1}, tmp_path / "w.pt")
    found = find_state_dict(read_checkpoint_file(tmp_path / "w.pt", PLAIN))
    assert list(found) == ["toy.a", "toy.b"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    code = program(b"}", text("toy.a"), tensor(storage("7", 1), (1,), (1,)), b"s")
    refused(zipped(tmp_path / "t.pt", code), r"cut short or damaged \(no data/7 in it\)")
    refused(zipped(tmp_path / "m.pt", program(b"h\x05")), r"damaged \(nothing under 5\)")


def test_another_model_that_was_trained_in_parallel(tmp_path: Path) -> None:
    torch.save({"module.decoder.prenet.layers.0.weight": torch.ones(1)}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "is a checkpoint of Tacotron 2 .*, not of Toy")


def test_two_names_that_become_one(tmp_path: Path) -> None:
    torch.save({"toy.a": torch.ones(1), "module.toy.a": torch.zeros(1)}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "toy.a twice, with and without module.")


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.tensor([1.0, torch.nan]), "1 weights hold numbers that are not finite.*toy.a"),
        (torch.tensor([torch.inf]), "not finite"),
        (torch.tensor([1e300], dtype=torch.float64), "not finite"),
        (torch.tensor([1]), "toy.a is of type torch.int64"),
    ],
)
def test_weights_that_are_no_finite_numbers(tmp_path: Path, weight: Tensor, message: str) -> None:
    torch.save({"toy.a": weight}, tmp_path / "w.pt")
    file = read_checkpoint_file(tmp_path / "w.pt", PLAIN)
    with pytest.raises(CheckpointError, match=message):
        single_precision(file, find_state_dict(file))


def test_shapes_are_compared(tmp_path: Path) -> None:
    torch.save({"toy.a": torch.ones(2), "toy.c": torch.ones(1)}, tmp_path / "w.pt")
    file = read_checkpoint_file(tmp_path / "w.pt", PLAIN)
    expected = {"toy.a": torch.empty(3), "toy.b": torch.empty(1), "toy.d": torch.empty(1)}
    with pytest.raises(CheckpointError) as caught:
        check_shapes(file, find_state_dict(file), expected, lambda n: n == "toy.d")
    assert "1 weights are missing: toy.b" in str(caught.value)
    assert "1 weights are not Toy's: toy.c" in str(caught.value)
    assert "1 weights have a wrong shape: toy.a is (2,), expected (3,)" in str(caught.value)


# safetensors with a JSON.


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "toy.safetensors"
    write_checkpoint(path, {"toy.a": torch.ones(4, 3).t()}, {"audio": FACTS}, MODULES)
    return path


def test_written_files_are_read_again(written: Path) -> None:
    file = read_checkpoint_file(written, MODULES)
    assert torch.equal(find_state_dict(file)["toy.a"], torch.ones(3, 4))
    assert file.audio_facts == FACTS
    assert file.sha256 == hashlib.sha256(written.read_bytes()).hexdigest()
    assert sorted(p.name for p in written.parent.iterdir()) == ["toy.json", "toy.safetensors"]


def test_audio_facts_that_the_json_changed(written: Path) -> None:
    beside = written.with_suffix(".json")
    beside.write_text(beside.read_text().replace("16000", "16001"))
    refused(written, r"other audio facts than toy.safetensors .*sample_rate 16001 for 16000")


def test_another_file_under_the_json(written: Path) -> None:
    beside = written.with_suffix(".json").read_text()
    write_checkpoint(written, {"toy.a": torch.zeros(1)}, {"audio": FACTS}, MODULES, overwrite=True)
    written.with_suffix(".json").write_text(beside)
    refused(written, r"its SHA-256 is \w{64}, expected \w{64}")


def test_a_json_of_any_content(written: Path) -> None:
    beside = written.with_suffix(".json")
    good = json.loads(beside.read_text())
    for content in ("", "[]", "3", "[" * 100_000, "nul", '{"format": "toy"}', "\ud800"):
        beside.write_bytes(content.encode("utf-8", "surrogatepass"))
        refused(written, r"toy\.json")
    for facts in ([], {}, {"sample_rate": 16000}, FACTS | {"hop": 1}):
        beside.write_text(json.dumps(good | {"audio": facts}))
        refused(written, r"toy\.json: expected audio facts sample_rate, n_mels")
    for key, value in {"version": "1", "sha256": None, "format": []}.items():
        beside.write_text(json.dumps(good | {key: value}))
        refused(written, r"toy\.json")


def test_new_weights_appear_whole_or_not_at_all(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr("safeload.write.os.replace", fail)
    with pytest.raises(CheckpointError, match=r"cannot write .*toy\.safetensors: no room"):
        write_checkpoint(written, {"toy.a": torch.zeros(9)}, {}, MODULES, overwrite=True)
    assert written.read_bytes() == before
    # Without the JSON, which must never stand beside weights that it does not describe.
    assert [p.name for p in written.parent.iterdir()] == ["toy.safetensors"]


def test_a_file_that_stands_where_the_new_one_should(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="exist; choose another name or --overwrite"):
        write_checkpoint(tmp_path / "x.safetensors", {}, {}, MODULES)
    (tmp_path / "x.json").write_text("mine")
    with pytest.raises(CheckpointError, match=r"cannot write .*x\.safetensors, which is a folder"):
        write_checkpoint(tmp_path / "x.safetensors", {}, {}, MODULES, overwrite=True)
    assert (tmp_path / "x.json").read_text() == "mine"
    with pytest.raises(
        CheckpointError, match=r"cannot write .*: there is no folder .*deep; make it"
    ):
        write_checkpoint(tmp_path / "deep" / "x.safetensors", {}, {}, MODULES)
    with pytest.raises(CheckpointError, match=r"ends in \.safetensors"):
        write_checkpoint(tmp_path / "x.pt", {}, {}, MODULES)


def test_a_full_disk_takes_nothing_away(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in written.parent.iterdir()}
    write_bytes = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if "json" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CheckpointError, match=r"cannot write .*toy\.safetensors: No space left"):
        write_checkpoint(written, {"toy.a": torch.zeros(9)}, {}, MODULES, overwrite=True)
    assert {path.name: path.read_bytes() for path in written.parent.iterdir()} == before


def test_another_model_with_its_own_json(tmp_path: Path) -> None:
    save_file({"duration_predictor.weight": torch.ones(2)}, tmp_path / "voice.safetensors")
    (tmp_path / "voice.json").write_text('{"weights": "voice.safetensors"}')
    refused(tmp_path / "voice.safetensors", r"is a checkpoint of LightSpeech \(the student\)")


def test_a_list_instead_of_a_state_dict(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    refused(tmp_path / "list.pt", "holds a list; expected a Toy state dict such as toy.pt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")  # opening it would wait for a writer for ever
    refused(tmp_path / "pipe.pt", "is a pipe or a device, not a file; expected a Toy checkpoint")
    refused(Path("/dev/zero"), "is a pipe or a device, not a file")  # reading it would never end


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    refused(tmp_path / ("x" * 300), "cannot read .*x{300}: File name too long")
