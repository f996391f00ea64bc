"""Datasets that a speech engine makes, with engines that the tests write themselves."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import soundfile
from torch import Tensor

from lightspeech.audio import write_wav
from lightspeech.dataset import speak, speak_workers
from lightspeech.dataset.engines import (
    ENGINES,
    Engine,
    EspeakNg,
    Festival,
    Flite,
    render,
    scheme_string,
)
from lightspeech.dataset.folder import read_card, read_dataset
from lightspeech.dataset.speak_journal import Entry, Journal
from lightspeech.errors import InputError
from lightspeech.text import decode, encode
from tests.conftest import ROOT

FAKE = r"""
import array, math, os, re, sys, time, wave, zlib

name, arguments = os.path.basename(sys.argv[1]), sys.argv[2:]
here = os.path.dirname(os.path.abspath(sys.argv[1]))

def say(text, file):
    with open(os.path.join(here, "said.txt"), "a") as log:
        log.write(text + "\n")
    time.sleep(float(os.environ.get("FAKE_DELAY", "0")))
    if "crash" in text:
        os.kill(os.getpid(), 11)
    if "hang" in text:
        time.sleep(600)
    if "nothing" in text:
        return
    if "garbage" in text:
        open(file, "w").write("no sound")
        return
    period = 40 + zlib.crc32(text.encode()) % 100
    level = 0 if "silent" in text else 8000
    wave_form = [int(level * math.sin(2 * math.pi * i / period)) for i in range(period)]
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 22050, 0, "NONE", ""))
        out.writeframes(array.array("h", wave_form).tobytes() * (300 * len(text) // period))
    if "cut" in text:
        os.truncate(file, os.path.getsize(file) // 2)
    if "late" in text:
        os.kill(os.getpid(), 11)

def option(letter):
    return arguments[arguments.index(letter) + 1]

if arguments == ["--version"]:
    print(name, "version: 9.8.7 of the tests")
elif name == "festival":
    assert arguments[0] == "--batch" and len(arguments) == 2
    if arguments[1] == "(print (voice.list))":
        print("(cmu_us_slt_arctic_hts other_voice)")
        sys.exit()
    for line in open(arguments[1]):
        if line.startswith("(say "):
            text, file = re.fullmatch(r'\(say "([^"\\]*)" "([^"\\]*)"\)\n', line).groups()
            say(text, file)
elif name == "flite":
    if arguments == ["-lv"]:
        print("Voices available: kal slt ")
        sys.exit()
    say(open(option("-f")).read().strip(), option("-o"))
elif name == "espeak-ng":
    if arguments == ["--voices"]:
        print("Pty Language Age/Gender VoiceName File Other")
        print(" 2  en-us           --/M      English_(America)  gmw/en-US            (en 3)")
    elif arguments == ["--voices=variant"]:
        print(" 5  variant         --/F      female3  !v/f3")
    else:
        say(open(option("-f")).read().strip(), option("-w"))
"""

TEXTS = [f"Sentence {x}{y} of the text, by Mr. Fox." for x in "bdfghklm" for y in "aeiou"]


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH with all three engines, which write tones, and what they said."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "fake.py").write_text(FAKE)
    for name in ENGINES:
        path = programs / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{programs}/fake.py" "$0" "$@"\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    return programs


def said(engines: Path) -> list[str]:
    """What the engines have read since the last question, without the trial's word."""
    path = engines / "said.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [line for line in lines if line != "hello."]


def table(path: Path, texts: Sequence[str] = TEXTS) -> Path:
    path.write_text("".join(f"u{n:03d}|{text}\n" for n, text in enumerate(texts)))
    return path


def run(text: Path, out: Path, *more: str, engine: str = "festival") -> None:
    parser = argparse.ArgumentParser()
    speak.add_arguments(parser)
    arguments = ["--engine", engine, "--text", str(text), "--out", str(out), "--jobs", "2", *more]
    speak.main(parser.parse_args(arguments))


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("engine", list(ENGINES))
def test_texts_become_a_dataset(
    tmp_path: Path, engines: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = table(tmp_path / "some text.txt", TEXTS[:12]), tmp_path / "a 'folder' (x)"
    run(text, out, engine=engine)
    assert sorted(said(engines)) == sorted("".join(decode(encode(t))) for t in TEXTS[:12])
    utterances, problems = read_dataset(out)
    assert problems == []
    assert [(u.id, u.text) for u in utterances] == [
        (f"u{n:03d}", t) for n, t in enumerate(TEXTS[:12])
    ]
    for utterance in utterances:
        sound = soundfile.info(utterance.path)
        assert (sound.samplerate, sound.channels, sound.subtype) == (22050, 1, "PCM_16")
    card = read_card(out)
    assert card is not None
    assert (card["made_by"], card["utterances"], card["texts"]) == ("speak", 12, 12)
    seconds = sum(soundfile.info(u.path).duration for u in utterances)
    assert card["hours"] == pytest.approx(seconds / 3600, abs=1e-4)
    source = card["source"]
    assert (source["engine"], source["engine_version"]) == (engine, "9.8.7")
    assert source["voice"] == ENGINES[engine].default_voices[0]
    assert source["text"][0]["name"] == "some text.txt"
    assert len(source["text"][0]["sha256"]) == 64
    assert str(tmp_path) not in (out / "dataset.json").read_text()
    assert {p.name for p in out.iterdir()} == {
        ".lock", ".speak.jsonl", "dataset.json", "metadata.csv", "wavs"
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "12 of 12 texts are spoken" in printed
    assert re.search(r"12 of them now.*utterances/s.* x real time", printed)
    assert "python -m tacotron2.train" in printed


def test_two_runs_give_the_same_bytes_however_many_jobs(tmp_path: Path, engines: Path) -> None:
    text = table(tmp_path / "t.txt")
    run(text, tmp_path / "one", "--jobs", "1")
    run(text, tmp_path / "other", "--jobs", "5")
    assert len(content(tmp_path / "one")) == 40 + 4
    assert content(tmp_path / "one") == content(tmp_path / "other")


def start(text: Path, out: Path, delay: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lightspeech.dataset", "speak", "--text", str(text),
         "--out", str(out), "--jobs", "2"],
        cwd=ROOT, env={**os.environ, "FAKE_DELAY": delay, "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def wait_for_rows(process: subprocess.Popen[str], journal: Path, rows: int) -> None:
    while not journal.exists() or journal.read_bytes().count(b"\n") < rows + 1:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = table(tmp_path / "t.txt"), tmp_path / "killed"
    with start(text, out, "0.1") as process:
        wait_for_rows(process, out / ".speak.jsonl", 8)
        process.kill()
    assert not (out / "metadata.csv").exists()  # it is not finished, and does not look it
    run(text, out)
    found = re.search(r"(\d+) of 40 texts are spoken already", capsys.readouterr().out)
    assert found is not None
    assert 8 <= int(found[1]) < 40
    run(text, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")
    said(engines)
    run(text, out)
    assert said(engines) == []


def test_what_is_done_stays_after_control_c(tmp_path: Path, engines: Path) -> None:
    text, out = table(tmp_path / "t.txt"), tmp_path / "stopped"
    with start(text, out, "0.1") as process:
        wait_for_rows(process, out / ".speak.jsonl", 4)
        os.killpg(process.pid, signal.SIGINT)  # a terminal tells the whole group
        printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "left out" not in errors
    assert "the same command goes on" in printed
    utterances, problems = read_dataset(out)
    assert problems == []
    assert 4 <= len(utterances) < 40
    card = read_card(out)
    assert card is not None
    assert (card["utterances"], card["texts"]) == (len(utterances), 40)
    assert not (out / ".speaking").exists()
    run(text, out)
    run(text, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


BAD = {
    "u003": ("This will crash.", "festival crashed with signal 11"),
    "u004": ("So will this crash.", "festival crashed with signal 11"),
    "u007": ("It says this too late.", "festival crashed with signal 11"),
    "u010": ("Now it says nothing.", "festival made no sound file of it"),
    "u011": ("This is garbage.", "festival made no sound file of it"),
    "u012": ("Half is cut.", "festival made no sound file of it"),
    "u019": ("It is silent.", "festival was silent"),
}


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_bad_utterances_are_left_out_and_the_rest_is_there(
    tmp_path: Path, engines: Path, capsys: pytest.CaptureFixture[str], jobs: str
) -> None:
    texts = list(TEXTS[:20])
    for id, (text, _) in BAD.items():
        texts[int(id[1:])] = text
    run(table(tmp_path / "t.txt", texts), tmp_path / "out", "--jobs", jobs)
    card = read_card(tmp_path / "out")
    assert card is not None
    assert card["left_out"] == {id: reason for id, (_, reason) in BAD.items()}
    utterances, _ = read_dataset(tmp_path / "out")
    assert {u.id for u in utterances} == {f"u{n:03d}" for n in range(20)} - BAD.keys()
    assert len(list((tmp_path / "out" / "wavs").iterdir())) == 20 - len(BAD)
    errors = capsys.readouterr().err
    for id, (_, reason) in BAD.items():
        assert f"left out: {id}: {reason}" in errors


def test_an_engine_that_hangs_is_ended(tmp_path: Path, engines: Path) -> None:
    texts = [*TEXTS[:3], "Here it will hang.", *TEXTS[3:6]]
    run(table(tmp_path / "t.txt", texts), tmp_path / "out", "--patience", "2")
    card = read_card(tmp_path / "out")
    assert card is not None
    assert card["left_out"] == {"u003": "festival hung: nothing came for 2 s"}
    assert card["utterances"] == 6


def test_a_changed_text_is_spoken_again_and_no_other(tmp_path: Path, engines: Path) -> None:
    text, out = tmp_path / "t.txt", tmp_path / "out"
    run(table(text, TEXTS[:9]), out)
    said(engines)
    changed = ["Another text.", *TEXTS[1:8], "This will crash."]
    run(table(text, changed), out)
    assert set(said(engines)) == {"another text.", "this will crash."}
    assert not (out / "wavs" / "u008.wav").exists()  # that of the old text
    assert [u.text for u in read_dataset(out)[0]] == changed[:8]
    run(table(text, changed), tmp_path / "fresh")
    assert content(out) == content(tmp_path / "fresh")


def test_recordings_that_are_not_what_the_journal_says_are_made_again(
    tmp_path: Path, engines: Path
) -> None:
    text, out = table(tmp_path / "t.txt", TEXTS[:8]), tmp_path / "out"
    run(text, out)
    whole = content(out)
    said(engines)
    (out / "wavs" / "u001.wav").unlink()
    os.truncate(out / "wavs" / "u002.wav", 500)
    rows = (out / ".speak.jsonl").read_text().splitlines(keepends=True)
    damaged = {4: "{", 5: '{"id": "u004", "digest": 7, "samples": []}\n', 6: "\udcff\n"}
    rows = [damaged.get(n, row) for n, row in enumerate(rows)]
    (out / ".speak.jsonl").write_bytes("".join(rows).encode("utf-8", "surrogateescape"))
    run(text, out)
    # Row 4 has swallowed row 5.
    assert len(said(engines)) == 5
    assert content(out) == whole


def test_a_journal_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    one, two, three = (Entry(id, "digest", 100) for id in ("one", "two", "three"))
    journal = Journal(tmp_path, {"engine": "x"})
    journal.add([one, two])
    whole = (tmp_path / ".speak.jsonl").read_bytes()
    (tmp_path / ".speak.jsonl").write_bytes(whole[:-20])
    journal = Journal(tmp_path, {"engine": "x"})
    assert journal.entries == {"one": one}
    journal.add([three])
    assert Journal(tmp_path, {"engine": "x"}).entries == {"one": one, "three": three}
    journal.add([two])
    journal.write(["two", "unknown", "one"])
    assert list(Journal(tmp_path, {"engine": "x"}).entries) == ["two", "one", "three"]


def test_a_full_disk_stops_the_run_which_goes_on_later(
    tmp_path: Path, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, out = table(tmp_path / "t.txt"), tmp_path / "out"
    written: list[Path] = []

    def until_full(path: Path, wav: Tensor) -> None:
        if len(written) == 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        write_wav(path, wav)

    monkeypatch.setattr(speak_workers, "write_wav", until_full)
    with pytest.raises(OSError, match="No space left"):
        run(text, out, "--jobs", "1")
    assert len(read_dataset(out)[0]) == 10  # whole batches of five or ten
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(engines))
    run(text, out)
    run(text, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


def test_control_c_does_not_reach_an_engine(tmp_path: Path, engines: Path) -> None:
    with Festival().start(["one."], tmp_path) as process:
        assert os.getsid(process.pid) != os.getsid(0)


def test_a_folder_made_otherwise_is_refused_and_stays(tmp_path: Path, engines: Path) -> None:
    text, out = table(tmp_path / "t.txt", TEXTS[:5]), tmp_path / "out"
    run(text, out)
    before = content(out)
    with pytest.raises(InputError, match=r'voice "cmu_us_slt_arctic_hts", now "other_voice"; give'):
        run(text, out, "--voice", "other_voice")
    with pytest.raises(InputError, match='made otherwise: engine "festival", now "flite"'):
        run(text, out, engine="flite")
    head, _, rest = (out / ".speak.jsonl").read_text().partition("\n")
    old = head.replace('"trim_decibels": 45.0', '"trim_decibels": 60.0')
    assert old != head
    (out / ".speak.jsonl").write_text(old + "\n" + rest)
    with pytest.raises(InputError, match="made otherwise: settings"):
        run(text, out)
    (out / ".speak.jsonl").write_text(head + "\n" + rest)
    assert content(out) == before


@pytest.mark.parametrize("file", ["metadata.csv", "dataset.json", "wavs/LJ001-0001.wav"])
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, engines: Path, file: str) -> None:
    (tmp_path / "out" / file).parent.mkdir(parents=True)
    (tmp_path / "out" / file).write_text("precious")
    with pytest.raises(InputError, match=r"that this command did not make; .* --out"):
        run(table(tmp_path / "t.txt"), tmp_path / "out")
    assert content(tmp_path / "out") == {file: b"precious"}


def test_odd_texts_are_split_left_out_or_made_fit(
    tmp_path: Path, engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "t.txt"
    text.write_text(
        "A bar | in it.\nSay {HH AH0 L OW1} now.\n" + "It goes on. " * 50 + "\nPlain one.\n...\n"
    )
    run(text, tmp_path / "out")
    texts = [u.text for u in read_dataset(tmp_path / "out")[0]]
    assert texts[0] == "A bar in it."
    assert texts[-1] == "Plain one."
    assert " ".join(texts[1:-1]) == ("It goes on. " * 50).strip()
    assert len(texts) > 3
    card = read_card(tmp_path / "out")
    assert card is not None
    assert list(card["left_out"].values()) == [speak.UNREADABLE]
    assert card["rows_left_out"] == 1
    assert "nothing in it can be spoken" in capsys.readouterr().err


def test_the_first_texts_alone_and_then_more(tmp_path: Path, engines: Path) -> None:
    text, out = table(tmp_path / "t.txt"), tmp_path / "out"
    run(text, out, "--limit", "5")
    assert len(read_dataset(out)[0]) == 5
    said(engines)
    run(text, out, "--limit", "9")
    assert len(said(engines)) == 4
    assert len(read_dataset(out)[0]) == 9


def test_an_engine_or_voice_that_is_not_there(
    tmp_path: Path, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, out = table(tmp_path / "t.txt"), tmp_path / "out"
    for engine in ENGINES:
        for voice in ("nobody", "-f", "../slt", "slt) (system", "en-us+nobody", ""):
            with pytest.raises(InputError, match=f"{engine} has no voice .* here; it has "):
                run(text, out, f"--voice={voice}", engine=engine)
    assert EspeakNg("en-us+f3").voice == "en-us+f3"
    monkeypatch.setattr(Flite, "default_voices", ("rms", "kal", "slt"))
    assert Flite().voice == "kal"
    monkeypatch.setattr(Festival, "default_voices", ("missing",))
    with pytest.raises(InputError, match="apt install festival festvox-us-slt-hts"):
        Festival()
    monkeypatch.setenv("PATH", str(tmp_path))
    for engine, packages in (("festival", "festival festvox-us-slt-hts"), ("flite", "flite")):
        with pytest.raises(
            InputError, match=f"{engine} is not installed; .*apt install {packages}"
        ):
            run(text, out, engine=engine)
    assert not out.exists()


def test_a_missing_engine_is_one_line_of_the_command_line(tmp_path: Path) -> None:
    text = table(tmp_path / "t.txt")
    ran = subprocess.run(
        [sys.executable, "-m", "lightspeech.dataset", "speak", "--engine", "flite",
         "--text", str(text), "--out", str(tmp_path / "out")],
        cwd=ROOT, env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: the speech engine flite is not installed")
    assert ran.stderr.count("\n") == 1


def test_an_engine_that_says_nothing_at_all_is_one_error(tmp_path: Path, engines: Path) -> None:
    fake = (engines / "fake.py").read_text()
    (engines / "fake.py").write_text(
        fake.replace("def say(text, file):", "def say(*_):\n    sys.exit(3)")
    )
    with pytest.raises(InputError, match=r"cannot speak with the voice .* ended with status 3"):
        run(table(tmp_path / "t.txt"), tmp_path / "out")
    (engines / "fake.py").write_text(fake)
    with pytest.raises(InputError, match=r"none of the 2 texts was spoken; the first: .* silent"):
        run(table(tmp_path / "u.txt", ["One silent.", "Two silent."]), tmp_path / "out")


HOSTILE = [
    '") (system "touch x") ("',
    "\\\") (system \\\"touch x\\\") (\\\"",
    "ends with a backslash\\",
    "new\nline\") (exit)\n(system \"touch x\")",
    "%s %n %d%%",
    "$(touch x) `touch x` ; touch x | touch x & touch x > x",
    "-f /etc/passwd",
    "--stdin",
    "<audio src='x'/> &lt; [[h@loU]] <speak>",
    "'(system \"touch x\") #.(exit) ,(exit)",
    "nul \0 bell \a escape \x1b",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_a_scheme_string_ends_where_it_should(text: str) -> None:
    literal = scheme_string(text)
    assert re.fullmatch(r'"[^"\\\n\0]*"', literal)
    assert len(literal) == len(text) + 2


@pytest.mark.parametrize("name", list(ENGINES))
def test_no_text_gets_into_a_command_line(tmp_path: Path, engines: Path, name: str) -> None:
    engine: Engine = ENGINES[name]()
    for text in HOSTILE:
        arguments = engine.command([engine.spoken(text)], tmp_path)
        assert arguments == engine.command([engine.spoken("hello")], tmp_path)
        assert not any("/" in argument for argument in arguments)
    assert not re.search(r"[<>&\[\]]", EspeakNg().spoken("".join(HOSTILE)))
    assert not re.search(r'["\\\n]', Festival().spoken("".join(HOSTILE)))


@pytest.mark.parametrize("name", list(ENGINES))
def test_hostile_texts_are_read_aloud_and_do_nothing(
    tmp_path: Path, engines: Path, name: str
) -> None:
    """From the text file on, through the engines' programs; the folder says what was done."""
    rows = [" ".join(text.replace("\0", "").split()) for text in HOSTILE]
    text = table(tmp_path / "t.txt", [row.replace("|", "") + " so" for row in rows])
    run(text, tmp_path / "out", engine=name)
    assert len(read_dataset(tmp_path / "out")[0]) == len(HOSTILE)
    assert not list(tmp_path.rglob("x"))


@pytest.mark.parametrize("name", list(ENGINES))
def test_an_installed_engine_speaks_and_obeys_no_text(tmp_path: Path, name: str) -> None:
    try:
        engine = ENGINES[name]()
    except InputError as e:
        pytest.skip(str(e))
    texts = [engine.spoken(text) for text in ("hello there.", *HOSTILE)]
    found: dict[int, int] = {}
    failed = render(
        engine, texts, tmp_path, 60, lambda i, path: found.update({i: path.stat().st_size})
    )
    assert failed.keys() | found.keys() == set(range(len(texts)))
    assert found[0] > 10000
    assert list(tmp_path.iterdir()) == []


def test_an_installed_festival_gives_a_dataset_again_and_again(tmp_path: Path) -> None:
    try:
        Festival()
    except InputError as e:
        pytest.skip(str(e))
    text = table(tmp_path / "t.txt", ["Good morning, Dr. Smith.", "Yes?", "It is 5 o'clock."])
    run(text, tmp_path / "one", "--jobs", "1")
    backwards = tmp_path / "b.txt"
    backwards.write_text("".join(reversed(text.read_text().splitlines(keepends=True))))
    run(backwards, tmp_path / "other", "--jobs", "3")
    for utterance in read_dataset(tmp_path / "one")[0]:
        other = tmp_path / "other" / "wavs" / utterance.path.name
        assert utterance.path.read_bytes() == other.read_bytes()
        assert 0.2 < soundfile.info(other).duration < 4
    assert json.loads((tmp_path / "one" / "dataset.json").read_text())["utterances"] == 3
