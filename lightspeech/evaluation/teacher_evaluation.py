"""A teacher speaks held-out text and is judged: every utterance, and the pictures of some."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

import lightspeech
from lightspeech.audio import mel_spectrogram, read_wav, write_wav
from lightspeech.dataset.folder import Utterance
from lightspeech.errors import InputError
from lightspeech.evaluation.journal import Journal, journal_key, package_versions
from lightspeech.evaluation.mel_distance import mel_cepstral_distortion
from lightspeech.evaluation.results import describe_device, stem, vocoder_record
from lightspeech.evaluation.sampling import spread
from lightspeech.evaluation.sound_judging import Judges, judge_sound, said_words, vocode
from lightspeech.evaluation.teacher_figures import figures, grouped_figures
from lightspeech.evaluation.teacher_judging import judge_attention
from lightspeech.evaluation.teacher_plots import Panel, plot_attentions, plot_mels
from lightspeech.files import sha256
from lightspeech.labelling_queue import Task, longest_first, read_freely
from lightspeech.renditions import LabellingSettings, Rendition
from lightspeech.synthesis import TeacherSynthesizer
from lightspeech.text import Line, encode

RECORD_VERSION = 1
JOURNAL = "judged.jsonl"
ATTENTION = "attention.png"
FAILING = "failing.png"
MOST_ATTENTIONS = 12
"""utterances in attention.png, and the most in failing.png"""
MOST_COMPARISONS = 10
"""utterances of which sound and spectrograms are written"""


def match_recordings(
    lines: Sequence[Line], utterances: Sequence[Utterance]
) -> dict[str, Utterance]:
    """The recording of each line, by the line's id, for those that have one.

    A recording fits a line if the teacher would read both texts alike, whatever their ids are; of
    several, the one with the line's id counts, else the first.
    """
    by_tokens: dict[tuple[int, ...], list[Utterance]] = {}
    for utterance in utterances:
        by_tokens.setdefault(tuple(encode(utterance.text)), []).append(utterance)
    found = {}
    for line in lines:
        fitting = by_tokens.get(tuple(encode(line.text)), [])
        if fitting:
            same = [utterance for utterance in fitting if utterance.id == line.id]
            found[line.id] = (same or fitting)[0]
    return found


def evaluate(
    lines: Sequence[Line],
    teacher: TeacherSynthesizer,
    recordings: Mapping[str, Utterance] | None,
    out: Path,
    settings: LabellingSettings,
    judges: Judges | None,
    known: Mapping[str, Any],
) -> dict[str, Any]:
    """Speaks and judges each line, and writes the plots and wavs into `out`.

    Args:
        lines: the texts, at least one, each spoken as one utterance.
        teacher: who speaks, and the vocoder through which everybody is heard.
        recordings: what `match_recordings` found; None compares with nobody.
        out: a folder that is there; what was judged before is taken from its journal. Files of an
            earlier run stay unless one of the same name takes their place.
        settings: of speaking: the seed, the gate, how many at once.
        judges: None leaves out how it sounds and what is heard.
        known: goes into the record and into the journal's keys; see `about`.

    Returns:
        what evaluation.json holds.
    """
    with Journal(out / JOURNAL) as journal:
        run = _Run(teacher, recordings or {}, settings, judges, known, journal)
        utterances = run.judge_all(lines)
    failing = [utterance for utterance in utterances if not utterance["sound"]]
    run.write_pictures(lines, [utterance["id"] for utterance in failing], out)
    return {
        "version": RECORD_VERSION,
        "lightspeech": lightspeech.__version__,
        "date": datetime.now().astimezone().isoformat(" ", "minutes"),
        "teacher": {**teacher.identity, "parameters": teacher.parameters},
        **vocoder_record(teacher.vocoder),
        "device": describe_device(teacher.device),
        **known,
        "settings": {**run.speaking, "batch_size": settings.batch_size},
        "versions": package_versions(),
        "all": figures(utterances),
        "by_length": grouped_figures(utterances),
        "failing": [
            {key: utterance[key] for key in ("id", "text", "characters", "reason")}
            for utterance in failing
        ],
        "left_out": run.problems,
        "utterances": utterances,
    }


class _Run:
    """The state of one `evaluate`."""

    def __init__(
        self,
        teacher: TeacherSynthesizer,
        recordings: Mapping[str, Utterance],
        settings: LabellingSettings,
        judges: Judges | None,
        known: Mapping[str, Any],
        journal: Journal,
    ) -> None:
        self.speaking = {
            **settings.identity(),
            "max_frames_per_token": settings.max_frames_per_token,
        }
        """the settings that change what is spoken"""
        self.problems: list[str] = []
        """a sentence for each recording that cannot be used"""
        self._teacher, self._settings = teacher, settings
        self._judges, self._journal = judges, journal
        self._recordings = dict(recordings)
        # What a judgement depends on, but for its text.
        self._hearing = [
            RECORD_VERSION,
            vocoder_record(teacher.vocoder) | {"vocoder_reason": None},
            known["vocoder_settings"],
            None if judges is None else package_versions(),
        ]
        self._digests = self._readable_recordings()

    def _readable_recordings(self) -> dict[str, str]:
        """The SHA-256 of each recording; those that cannot be read are left out from here on."""
        digests = {}
        for id, utterance in list(self._recordings.items()):
            try:
                digests[id] = sha256(utterance.path)
            except OSError as e:
                self._refuse(id, str(e.strerror or e))
        return digests

    def _refuse(self, id: str, reason: str) -> None:
        self.problems.append(f"{self._recordings.pop(id).path.name}: {reason}")

    # Judging

    def judge_all(self, lines: Sequence[Line]) -> list[dict[str, Any]]:
        """The judgement of each line, in their order."""
        found: dict[str, dict[str, Any]] = {}
        for line in lines:
            entry = self._judged_before(line)
            if entry is not None:
                found[line.id] = entry
        missing = [line for line in lines if line.id not in found]
        if found:
            print(f"{len(found):,} of {len(lines):,} texts were judged before", flush=True)
        pause = 0.2 if sys.stderr.isatty() else 5.0
        bar: tqdm[Any] = tqdm(
            total=sum(len(line.text) for line in missing), unit=" characters", unit_scale=True,
            leave=False, delay=0.5, mininterval=pause, miniters=0,
        )  # fmt: skip
        with closing(bar):
            for done, (task, rendition, seconds) in enumerate(self._speak(missing, bar), start=1):
                found[task.line.id] = self._judge(task, rendition, seconds)
                bar.set_postfix_str(f"{done:,} of {len(missing):,} texts", refresh=False)
                bar.update(len(task.line.text))
        return [found[line.id] for line in lines]

    def _speak(
        self, lines: Sequence[Line], bar: tqdm[Any] | None = None
    ) -> Iterator[tuple[Task, Rendition, float]]:
        """Each line's rendition, as they come, and the seconds that the teacher took for it: what
        passed since the one before, so that the sum is right."""

        def on_step(step: int, speaking: int) -> None:
            if bar is not None:
                bar.set_postfix_str(f"{speaking} speaking, step {step:,}", refresh=False)
                bar.update(0)

        queue = deque(longest_first(Task(line, encode(line.text)) for line in lines))
        spoken = read_freely(queue, self._teacher.teacher, self._settings, on_step)
        while True:
            started = time.perf_counter()
            drawn = next(spoken, None)
            if drawn is None:
                return
            yield *drawn, time.perf_counter() - started

    def _key(self, line: Line) -> str:
        spoken = (self._teacher.identity["sha256"], self.speaking, line.id, line.text)
        return journal_key("teacher", spoken, self._hearing, self._digests.get(line.id))

    def _recording_key(self, line: Line) -> str:
        said = said_words(line.text, encode(line.text))
        return journal_key("recording", said, self._hearing, self._digests[line.id])

    def _judged_before(self, line: Line) -> dict[str, Any] | None:
        entry = self._journal.get(self._key(line))
        if entry is None or line.id not in self._recordings:
            return entry
        recording = self._journal.get(self._recording_key(line))
        return None if recording is None else {**entry, "recording": recording}

    def _judge(self, task: Task, rendition: Rendition, seconds: float) -> dict[str, Any]:
        line = task.line
        said = said_words(line.text, task.tokens)
        entry = judge_attention(line, task.tokens, rendition, self._settings)
        entry["speaking_seconds"] = seconds
        vocoder = self._teacher.vocoder
        entry["teacher"], _ = judge_sound(rendition.mel, said, vocoder, self._judges)
        entry["mel_cepstral_distortion"] = entry["length_ratio"] = None
        mel = self._recorded_mel(line)
        recording = None
        if mel is not None:
            recording = self._journal.get(self._recording_key(line))
            if recording is None:
                recording, _ = judge_sound(mel, said, vocoder, self._judges)
                if recording["problem"] is None:
                    self._journal.add(self._recording_key(line), recording)
        if recording is not None and recording["problem"] is not None:
            self._refuse(line.id, recording["problem"])
            mel = recording = None
        if mel is not None and recording is not None:
            entry["length_ratio"] = entry["teacher"]["seconds"] / recording["seconds"]
            if rendition.mel.isfinite().all():
                entry["mel_cepstral_distortion"] = mel_cepstral_distortion(rendition.mel, mel)
        self._journal.add(self._key(line), entry)
        return entry if recording is None else {**entry, "recording": recording}

    def _recorded_mel(self, line: Line) -> Tensor | None:
        """(T, M) of the line's recording, or None; one that cannot be read is told once."""
        if line.id not in self._recordings:
            return None
        try:
            return mel_spectrogram(read_wav(self._recordings[line.id].path))
        except InputError as e:
            self._refuse(line.id, str(e))
            return None

    # Pictures

    def write_pictures(self, lines: Sequence[Line], failing: Sequence[str], out: Path) -> None:
        """Attentions of texts of all lengths, and of failing ones; sound and spectrograms of some.

        These few are spoken again, each as before: so an interrupted run needs no attentions kept.
        """
        chosen = spread(lines, MOST_ATTENTIONS)
        compared = {line.id for line in spread(chosen, MOST_COMPARISONS)}
        first_failing = set(failing[:MOST_ATTENTIONS])
        wanted = {line.id for line in chosen} | first_failing
        numbers = {line.id: number for number, line in enumerate(lines, start=1)}
        panels = {}
        for task, rendition, _ in self._speak([line for line in lines if line.id in wanted]):
            line = task.line
            entry = judge_attention(line, task.tokens, rendition, self._settings)
            reason = entry["reason"] or "read from start to end"
            note = f"{entry['characters']} characters: {reason}"
            if rendition.attention.isfinite().all():
                panels[line.id] = Panel(line.text, note, rendition.attention)
            if line.id in compared:
                self._write_comparison(line, rendition, out / stem(numbers[line.id], line.text))
        who = self._teacher.identity["name"]
        shown = [panels[line.id] for line in chosen if line.id in panels]
        bad = [panels[id] for id in failing if id in first_failing and id in panels]
        (out / FAILING).unlink(missing_ok=True)  # an earlier run's
        if shown:
            plot_attentions(out / ATTENTION, shown, f"{who}: attention, shortest to longest text")
        if bad:
            title = f"{who}: attention of {len(bad)} of the {len(failing)} texts that failed"
            plot_attentions(out / FAILING, bad, title)

    def _write_comparison(self, line: Line, rendition: Rendition, path: Path) -> None:
        """The wav of each side through the vocoder, and their mels one above the other."""
        sides = [("teacher", rendition.mel)]
        recorded = self._recorded_mel(line)
        if recorded is not None:
            sides.append(("recording", recorded))
        for who, mel in sides:
            try:
                wav = vocode(self._teacher.vocoder, mel)
            except InputError as e:
                print(f"no sound of {who} for {line.text[:60]!r}: {e}", file=sys.stderr)
            else:
                write_wav(path.with_name(f"{path.name}.{who}.wav"), wav)
        plot_mels(path.with_name(f"{path.name}.png"), sides, line.text)
