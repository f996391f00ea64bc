"""The import of recordings: what it finds, what it writes, and that nothing stops it for good."""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile

from lightspeech.audio import SAMPLE_RATE
from lightspeech.dataset import importing
from lightspeech.dataset.checks import REASONS, Limits
from lightspeech.dataset.folder import read_card, read_dataset
from lightspeech.dataset.importing import import_dataset
from lightspeech.dataset.journal import JOURNAL
from lightspeech.dataset.measuring import UnfitSoundError
from lightspeech.errors import InputError
from tests.planted_dataset import PlantedDataset, good_dataset, planted_dataset, voice

LIMITS = Limits(min_speech_to_noise=10)
ROOT = Path(__file__).parent.parent


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> PlantedDataset:
    return planted_dataset(tmp_path_factory.mktemp("planted") / "voice")


@pytest.fixture(scope="module")
def imported(planted: PlantedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "out"
    import_dataset(planted.folder, out, LIMITS)
    return out


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> PlantedDataset:
    return good_dataset(tmp_path_factory.mktemp("good") / "voice")


@pytest.fixture
def own(good: PlantedDataset, tmp_path: Path) -> Path:
    """A copy of the good dataset that a test may change."""
    return Path(shutil.copytree(good.folder, tmp_path / "voice"))


def test_thirty_planted_faults_are_those_that_are_reported(
    planted: PlantedDataset, imported: Path
) -> None:
    report = json.loads((imported / "report.json").read_text())
    found = [(entry["id"], entry["reason"]) for entry in report["dropped"]]
    assert len(found) == 30
    assert sorted(found) == sorted(planted.faults)
    assert {reason for _, reason in found} == REASONS.keys()  # each kind was planted
    assert sum(report["reasons"].values()) == 30
    assert (report["rows"], report["kept"]) == (len(planted.rows), 60)


def test_all_else_is_kept(planted: PlantedDataset, imported: Path) -> None:
    utterances, problems = read_dataset(imported)
    assert {utterance.id: utterance.text for utterance in utterances} == planted.good
    assert problems == []
    assert {path.stem for path in (imported / "wavs").iterdir()} == planted.good.keys()
    table = (imported / "metadata.csv").read_text()
    assert table == "".join(f"{id}|{text}\n" for id, text in planted.good.items())
    card = read_card(imported)
    assert card is not None
    assert (card["made_by"], card["utterances"]) == ("import", 60)
    seconds = sum(soundfile.info(path).duration for path in (imported / "wavs").iterdir())
    assert card["hours"] == pytest.approx(seconds / 3600, abs=1e-4)


def test_the_report_for_people_names_everything(planted: PlantedDataset, imported: Path) -> None:
    text = (imported / "report.txt").read_text()
    assert "kept 60 utterances, 1.9 minutes, of 88 rows; left out 30" in text
    for id, reason in planted.faults:
        section = text.split(f"\n{reason}: {REASONS[reason]}\n")[1].split("\n\n")[0]
        assert f"  {id}" in section


def test_wavs_are_as_a_teacher_wants_them(imported: Path) -> None:
    for path in (imported / "wavs").iterdir():
        facts = soundfile.info(path)
        assert (facts.samplerate, facts.channels, facts.subtype) == (SAMPLE_RATE, 1, "PCM_16")
        samples, _ = soundfile.read(path)
        loud = np.sqrt(np.mean(np.square(samples[: len(samples) // 256 * 256].reshape(-1, 256)), 1))
        speech = loud[loud > loud.max() * 10 ** (-30 / 20)]
        assert 10 * np.log10(np.mean(speech**2)) == pytest.approx(-22, abs=0.1)
        ends = np.flatnonzero(loud > loud.max() * 10 ** (-45 / 20))[[0, -1]] * 256 / SAMPLE_RATE
        assert ends[0] < 0.05 + 2 * 256 / SAMPLE_RATE
        assert len(samples) / SAMPLE_RATE - ends[1] < 0.05 + 3 * 256 / SAMPLE_RATE


def test_sounds_are_what_scipy_makes_of_them(planted: PlantedDataset, imported: Path) -> None:
    seen = set()
    for path in sorted(planted.wavs.glob("good-*"))[:18]:
        samples, rate = soundfile.read(path, always_2d=True)
        seen.add((path.suffix.lower(), rate, samples.shape[1]))
        mono = samples.mean(axis=1)
        common = np.gcd(rate, SAMPLE_RATE)
        expected = scipy.signal.resample_poly(mono, SAMPLE_RATE // common, rate // common)
        made, _ = soundfile.read(imported / "wavs" / f"{path.stem}.wav")
        start = int(np.argmax(scipy.signal.correlate(expected, made, mode="valid")))
        piece = expected[start : start + len(made)]
        gain = made @ piece / (piece @ piece)
        inner = slice(2000, -2000)  # the filters differ at the ends
        error = np.sqrt(np.mean((made - gain * piece)[inner] ** 2))
        # Up to 4 kHz in sources of 8 kHz: two low-passes differ somewhat at the edge.
        assert error < 0.02 * np.sqrt(np.mean(made**2)), path.name
    assert len(seen) == 9


def test_the_report_says_what_was_changed(imported: Path) -> None:
    report = json.loads((imported / "report.json").read_text())
    changed = report["changed"]
    assert changed["resampled"] == {"8000": 6, "16000": 7, "44100": 20, "48000": 7}
    assert changed["mixed"] == {"2": 26}
    assert 5 < changed["trimmed_seconds"] < 15
    assert report["pace"]["median_seconds_per_symbol"] == pytest.approx(0.065, rel=0.05)
    assert report["limits"]["min_speech_to_noise"] == 10


def test_again_and_in_parallel_gives_the_same_bytes(
    planted: PlantedDataset, imported: Path, tmp_path: Path
) -> None:
    import_dataset(planted.folder, tmp_path / "parallel", LIMITS, jobs=2)
    assert content(tmp_path / "parallel") == content(imported)


def test_a_second_run_reads_nothing_anew(own: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "out"
    import_dataset(own, out)
    before = content(out)
    monkeypatch.setattr(importing, "measure", lambda *_: pytest.fail("was read again"))
    shown: list[tuple[int, int]] = []
    import_dataset(own, out, show=lambda done, total: shown.append((done, total)))
    assert content(out) == before
    assert shown == [(12, 12)]


@pytest.mark.parametrize("when", [0, 1, 5, 11])
def test_goes_on_after_an_interruption(
    own: Path, tmp_path: Path, when: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    import_dataset(own, whole)

    def interrupt(done: int, total: int) -> None:
        if done == when:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_dataset(own, out, show=interrupt)
    assert not (out / "dataset.json").exists()
    (out / "wavs" / ".good-011.wav.123.tmp").touch()  # a killed process leaves such
    with open(out / JOURNAL, "ab") as journal:
        journal.write(b'{"id":"good-0')  # and half a line
    read = []
    measure = importing.measure
    monkeypatch.setattr(importing, "measure", lambda *a: read.append(a) or measure(*a))
    import_dataset(own, out)
    assert len(read) == 12 - when
    assert content(out) == content(whole)


def test_goes_on_after_a_kill(planted: PlantedDataset, imported: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "lightspeech.dataset", "import", str(planted.folder), "--out", "out",
        "--jobs", "2", "--min-speech-to-noise", "10",
    ]  # fmt: skip
    out = tmp_path / "out"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for _ in range(5):  # it may have finished before it was killed
        with subprocess.Popen(
            command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            while process.poll() is None and _lines(out / JOURNAL) < 5:
                time.sleep(0.002)
            children = _children(process.pid)
            process.send_signal(signal.SIGKILL)
        if not (out / "dataset.json").exists():
            break
        shutil.rmtree(out)
    assert _lines(out / JOURNAL) >= 5
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "its processes live on"
        time.sleep(0.05)
    import_dataset(planted.folder, out, LIMITS)
    assert content(out) == content(imported)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _children(process: int) -> list[str]:
    """Numbers of the processes that it has started, where the system tells."""
    path = Path(f"/proc/{process}/task/{process}/children")
    try:
        return path.read_text().split()
    except OSError:
        return []


def test_a_lost_wav_is_made_again(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    import_dataset(own, out)
    before = content(out)
    (out / "wavs" / "good-003.wav").unlink()
    (out / "wavs" / "good-007.wav").write_bytes(b"RIFF")
    import_dataset(own, out)
    assert content(out) == before


def test_changes_of_the_source_are_followed(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    import_dataset(own, out)
    table = own / "metadata.csv"
    rows = table.read_text().splitlines()
    new = voice(np.random.default_rng(5), 1.7)
    soundfile.write(own / "wavs" / "new.wav", new, SAMPLE_RATE)
    soundfile.write(own / "wavs" / "good-000.wav", new[:30000], SAMPLE_RATE)  # another take
    (own / "wavs" / "good-001.flac").write_bytes(b"broken")
    # A row goes, and its sound is an orphan then; one comes.
    table.write_text("\n".join([*rows[:2], *rows[3:], "new|Amber candle kettle garden."]) + "\n")
    report = import_dataset(own, out)
    assert {(entry["id"], entry["reason"]) for entry in report["dropped"]} == {
        ("good-001", "unreadable"), ("good-002", "orphan_sound"),
    }  # fmt: skip
    import_dataset(own, tmp_path / "fresh")
    assert content(out) == content(tmp_path / "fresh")


def test_what_the_median_dropped_comes_back_with_it(own: Path, tmp_path: Path) -> None:
    """Its wav was taken away when it was dropped, and its sound has not changed since."""
    out = tmp_path / "out"
    table = own / "metadata.csv"
    rows = table.read_text().splitlines(keepends=True)
    id = rows[1].split("|")[0]
    table.write_text(rows[0] + f"{id}|Amber candle kettle garden and so on, on and on, and on."
                     " Amber candle kettle garden.\n" + "".join(rows[2:]))  # fmt: skip
    report = import_dataset(own, out)
    assert [entry["reason"] for entry in report["dropped"]] == ["too_fast"]
    assert not (out / "wavs" / f"{id}.wav").exists()
    table.write_text("".join(rows))
    assert import_dataset(own, out)["dropped"] == []
    import_dataset(own, tmp_path / "fresh")
    assert content(out) == content(tmp_path / "fresh")


def test_a_file_that_became_readable_is_read(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its permissions may have changed, which is no change of the file."""
    out, measure = tmp_path / "out", importing.measure

    def refused(path: Path, limits: Limits) -> object:
        if path.stem == "good-001":
            raise UnfitSoundError("unreadable", "Permission denied")
        return measure(path, limits)

    with monkeypatch.context() as patch:
        patch.setattr(importing, "measure", refused)
        report = import_dataset(own, out)
    assert [(e["id"], e["reason"]) for e in report["dropped"]] == [("good-001", "unreadable")]
    assert import_dataset(own, out)["dropped"] == []


def test_equal_texts_and_characters_that_cannot_be_spoken_stay(tmp_path: Path) -> None:
    dataset = PlantedDataset(tmp_path / "voice")
    for id, text in {"a": "Amber candle kettle.", "b": "Amber candle kettle.",
                     "c": "Amber % candle €.", "d": "Basin % candle."}.items():  # fmt: skip
        dataset.write(f"{id}.wav", voice(dataset.rng, 1.3))
        dataset.row(id, text)
    dataset.finish()
    report = import_dataset(dataset.folder, tmp_path / "out")
    assert (report["kept"], report["dropped"]) == (4, [])
    assert report["not_spoken"][0].startswith(
        "not spoken, in 2 texts, first at metadata.csv:3: U+0025 PERCENT SIGN"
    )
    assert "PERCENT SIGN" in (tmp_path / "out" / "report.txt").read_text()


def test_of_equal_sounds_the_one_with_the_fitting_text_stays(own: Path, tmp_path: Path) -> None:
    table = own / "metadata.csv"
    rows = table.read_text().splitlines(keepends=True)
    shutil.copy(own / "wavs" / "good-003.wav", own / "wavs" / "early.wav")
    long = "Amber candle kettle garden and so on, on and on, and on. Amber candle kettle garden."
    table.write_text(f"early|{long}\n" + "".join(rows))
    report = import_dataset(own, tmp_path / "out")
    assert [(e["id"], e["reason"], e["detail"]) for e in report["dropped"]] == [
        ("early", "duplicate_sound",
         "the samples of good-003; their texts differ: listen to which of them is right"),
    ]  # fmt: skip


def test_another_source_or_other_settings_are_refused(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    import_dataset(own, out)
    before = content(out)
    other = shutil.copytree(own, tmp_path / "other")
    with pytest.raises(InputError, match=r"was made from .*voice, not from .*other; give another"):
        import_dataset(other, out)
    with pytest.raises(InputError, match=r"other settings, max_seconds 15.0 \(now 9\); give anoth"):
        import_dataset(own, out, Limits(max_seconds=9))
    assert content(out) == before


@pytest.mark.parametrize(
    ("journal", "message"),
    [
        (b"not json\n\n", "is not the journal of an import"),
        (b"[]\n", "is not the journal of an import"),
        (b'{"format":"lightspeech-import-journal","version":9}\n', "by another version"),
    ],
)
def test_a_foreign_journal_is_refused(
    good: PlantedDataset, tmp_path: Path, journal: bytes, message: str
) -> None:
    (tmp_path / JOURNAL).write_bytes(journal)
    with pytest.raises(InputError, match=message):
        import_dataset(good.folder, tmp_path)


def test_damaged_lines_of_the_journal_are_done_again(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    import_dataset(own, out)
    before = content(out)
    lines = (out / JOURNAL).read_bytes().splitlines(keepends=True)
    outside = lines[4].replace(b"good-003", b"../../x")
    (out / JOURNAL).write_bytes(
        b"".join([lines[0], b'{"id":1}\n', b"\xff\n", outside, *lines[3:6], b"null\n", *lines[7:]])
    )
    (tmp_path / "x.wav").touch()
    import_dataset(own, out)
    assert content(out) == before
    assert (tmp_path / "x.wav").exists()


def test_foreign_folders_are_not_written_to(good: PlantedDataset, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("text")
    with pytest.raises(InputError, match=r"holds thesis.tex, which no import has made; give --out"):
        import_dataset(good.folder, tmp_path)
    assert content(tmp_path) == {"thesis.tex": b"text"}
    with pytest.raises(InputError, match="is a file; --out must be a new or an empty folder"):
        import_dataset(good.folder, tmp_path / "thesis.tex")
    with pytest.raises(InputError, match="cannot write into the folder"):
        import_dataset(good.folder, tmp_path / "thesis.tex" / "out")


@pytest.mark.parametrize("place", [".", "wavs", "wavs/out"])
def test_the_source_is_not_written_to(own: Path, place: str) -> None:
    before = content(own)
    with pytest.raises(InputError, match="lies in the dataset that is imported"):
        import_dataset(own, own / place)
    assert content(own) == before


def test_a_folder_in_the_source_is_no_matter(own: Path) -> None:
    assert import_dataset(own, own / "clean")["kept"] == 12


def test_nothing_left_is_one_error_with_a_report(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    limits = Limits(min_seconds=4)
    with pytest.raises(InputError, match=r"none of the 12 rows .* good-000: too_short, .*report.t"):
        import_dataset(own, out, limits)
    assert json.loads((out / "report.json").read_text())["reasons"] == {"too_short": 12}
    assert not (out / "metadata.csv").exists()
    assert list((out / "wavs").iterdir()) == []
    with pytest.raises(InputError, match="none of the 12 rows"):
        import_dataset(own, out, limits)


def test_a_full_disk_ends_it_and_the_rest_is_kept(own: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "out"
    write_wav = importing.write_wav

    def write(path: Path, wav: object) -> None:
        if path.stem == "good-006":
            raise OSError(errno.ENOSPC, "No space left on device")
        write_wav(path, wav)

    with monkeypatch.context() as patch:
        patch.setattr(importing, "write_wav", write)
        with pytest.raises(OSError, match="No space left"):
            import_dataset(own, out)
    assert _lines(out / JOURNAL) == 1 + 6
    assert import_dataset(own, out)["kept"] == 12


@pytest.mark.parametrize("missing", ["metadata.csv", "wavs"])
def test_a_source_that_is_none_leaves_no_folder(own: Path, tmp_path: Path, missing: str) -> None:
    (own / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"no .*{missing}.* in .*expected LJSpeech's layout"):
        import_dataset(own, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    importing.add_arguments(parser)
    return parser.parse_args(words)


def test_the_command(good: PlantedDataset, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    importing.main(
        parsed(str(good.folder), "--out", str(out), "--jobs", "1", "--max-pause", "none",
               "--max-seconds", "1.8")
    )  # fmt: skip
    printed = capsys.readouterr()
    report = json.loads((out / "report.json").read_text())
    assert (report["limits"]["max_pause"], report["limits"]["max_seconds"]) == (None, 1.8)
    kept, dropped = report["kept"], len(report["dropped"])
    assert kept + dropped == 12
    assert dropped > 3
    lines = printed.out.splitlines()
    assert lines[0].startswith(f"kept {kept} utterances, ")
    assert lines[1].split()[:2] == [str(dropped), "too_long"]
    assert lines[1].endswith(", ...")
    assert lines[2:] == [
        f"report: {out / 'report.txt'} (for programs: {out / 'report.json'})",
        f"next: python -m tacotron2.train {out}",
    ]
    assert "importing: 100%" in printed.err
    assert "12/12" in printed.err


def test_a_bad_option(capsys) -> None:
    with pytest.raises(SystemExit):
        parsed("voice", "--out", "out", "--max-pause", "long")
    assert "expected a number or none, got 'long'" in capsys.readouterr().err
    with pytest.raises(InputError, match="max_pause must be a number from 0, or none, not -2"):
        importing.main(parsed("voice", "--out", "out", "--max-pause", "-2"))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["import", "missing", "--out", "out"], 1, "error: no dataset folder at missing;"),
        ([], 2, "the following arguments are required: COMMAND"),
    ],
)
def test_one_line_on_failure(tmp_path: Path, words: list[str], code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lightspeech.dataset", *words], cwd=tmp_path, text=True,
        capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
