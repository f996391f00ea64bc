"""Files appear whole or not at all; a folder has one writer."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from lightspeech.errors import InputError
from lightspeech.files import (
    atomic_path,
    lock_file,
    make_folder,
    read_json,
    remove_leftovers,
    sha256,
    single_writer,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    write_text(target, "old")

    def fail_half_way() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half of the new")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail_half_way()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_a_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    write_text(target, "old")
    program = (
        "import os, signal, sys; from lightspeech.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(target)], check=False)
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2  # the killed process could not tidy up
    (tmp_path / ".theirs.tmp").touch()  # another program's: a user may give any folder
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".theirs.tmp", "file.txt"]


def test_json_round_trip_keeps_unicode_readable(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"text": "café", "n": 3})
    assert "café" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "a.json", "thing") == {"text": "café", "n": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no manifest at"),
        (b"{", "not a readable manifest"),
        (b"\xff", "not a readable manifest"),
        (b" \n", "not a readable manifest: it is empty"),
    ],
)
def test_json_that_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "m.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_json(path, "manifest")


def test_sha256_of_a_file_larger_than_a_block(tmp_path: Path) -> None:
    content = bytes(range(256)) * 8192  # 2 MiB
    (tmp_path / "big").write_bytes(content)
    assert sha256(tmp_path / "big") == hashlib.sha256(content).hexdigest()


def test_make_folder_makes_parents_and_refuses_a_file_in_the_way(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a" / "b").is_dir()
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write into the folder .*file"):
        make_folder(tmp_path / "file" / "b")


def test_a_second_writer_is_refused_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from lightspeech.files import single_writer\n"
        "with single_writer(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process is writing"), single_writer(tmp_path):
            pass
        other.kill()
    with single_writer(tmp_path):
        pass


def test_a_disk_that_takes_little_at_a_time_gets_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:7]))
    write_text(tmp_path / "a", "0123456789" * 10)
    assert (tmp_path / "a").read_text() == "0123456789" * 10


def test_readers_share_a_lock_and_a_writer_waits_for_all_of_them(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="locks are POSIX")
    with ExitStack() as files:
        one, two = (files.enter_context(open(tmp_path / "lock", "a+")) for _ in range(2))
        assert lock_file(one, shared=True)
        assert lock_file(two, shared=True)
        assert not lock_file(one)
        two.close()
        assert lock_file(one, wait=True)


def test_content_is_on_the_disk_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, swap = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        calls.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), swap(a, b)))
    write_text(tmp_path / "a", "x")
    assert calls == ["file", "rename", "folder"]
