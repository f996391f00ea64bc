"""Lines of text -> a folder of results: wavs, plots, results.json and the listening page."""

from __future__ import annotations

import platform
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import lightspeech
from lightspeech.audio import write_wav
from lightspeech.errors import InputError
from lightspeech.evaluation.figures import STAGES, WARM_UP, Work, times_real_time, undisturbed
from lightspeech.evaluation.plots import plot_speech
from lightspeech.evaluation.report import Entry, Facts, Page, entry_record
from lightspeech.evaluation.strips import Beside
from lightspeech.evaluation.voices import TEACHER, Student, voice_record
from lightspeech.files import make_folder, remove_leftovers, single_writer, write_json
from lightspeech.joins import SENTENCE_SILENCE
from lightspeech.mel_file import write_mel
from lightspeech.synthesis import Synthesizer, TeacherSynthesizer
from lightspeech.text import Line, UnknownCharacters, describe_character, unknown_characters
from lightspeech.vocoders import Vocoder

PAGE = "index.html"
RECORD = "results.json"
RECORD_VERSION = 1


@dataclass(frozen=True)
class Results:
    """What `speak_lines` did."""

    page: Path
    """the listening page"""
    spoken: int
    """texts that were spoken"""
    seconds: float
    """of the student's speech"""
    speeds: dict[str, dict[str, float]]
    """`times_real_time` under `student`, `teacher` if it was heard, names of voices beside"""
    failed: list[str]
    """a sentence for each text that could not be spoken"""
    vocoder: str
    """its title"""

    def summary(self) -> str:
        """How much was spoken and how fast, and where it is."""
        texts = "1 text" if self.spoken == 1 else f"{self.spoken} texts"
        widths = {who: max(10, len(who) + 2) for who in self.speeds}
        lines = [
            f"\n{texts}, {self.seconds:.1f} s of speech. Speed, in times real time:",
            f"  {'':26}" + "".join(f"{who:>{width}}" for who, width in widths.items()),
        ]
        for stage, words in STAGES.items():
            values = "".join(f"{self.speeds[who][stage]:>{n}.1f}" for who, n in widths.items())
            lines.append(f"  {words:26}{values}")
        lines.append(f"Wavs:   {self.page.parent.resolve()}")
        lines.append(f"Listen: {self.page.resolve().as_uri()} (vocoder {self.vocoder})")
        return "\n".join(lines)


def speak_lines(
    lines: Sequence[Line],
    synthesizer: Synthesizer,
    teacher: TeacherSynthesizer | None,
    out: Path,
    *,
    beside: Sequence[Student] = (),
    pace: float = 1.0,
    sentence_silence: float = SENTENCE_SILENCE,
    teacher_note: str = "",
    show_text: bool = False,
    save_mel: bool = False,
) -> Results:
    """Speaks each line by all voices and writes what one hears and sees into `out`.

    Every file appears whole or not at all. Files of an earlier run stay unless one of the same name
    takes their place; the page and results.json are about this run only.

    Args:
        lines: the texts, each of any length.
        teacher: None leaves it out.
        out: the folder; it is made if need be.
        beside: further voices, with the student's vocoder and names that tell them apart.
        pace: of the student and of those beside it; the teacher has its own.
        sentence_silence: seconds between the sentences of a text.
        teacher_note: said of the teacher on the page.
        show_text: print what will be spoken before it is.
        save_mel: write the mels too, as NAME.npy, NAME.teacher.npy and so on (see write_mel).

    Raises:
        InputError: options out of range, a folder that cannot be written to, or no line that could
            be spoken; a line that fails among others is only reported.
    """
    # The first sentence of a process pays for caches and thread pools. It also shows, before
    # anything is written, that the options and the voices are good.
    synthesizer(WARM_UP, pace, sentence_silence)
    run = _Run(
        lines, synthesizer, teacher, beside, out, pace, sentence_silence, teacher_note, save_mel
    )
    run.speak_beside(WARM_UP)
    make_folder(out)
    if (out / PAGE).is_dir():
        raise InputError(f"{out / PAGE} is a folder, where the page is to be; give another --out")
    with single_writer(out):
        remove_leftovers(out)
        try:
            run.speak(show_text)
        except (KeyboardInterrupt, InputError, OSError):
            if run.records:
                with suppress(OSError, InputError):
                    run.write()  # what was spoken before is worth hearing
            raise
        if not run.records:
            rest = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
            raise InputError(f"{run.failed[0]}{rest}")
        run.write()
    return Results(
        page=out / PAGE,
        spoken=len(run.records),
        seconds=sum(speech.duration for speech in run.heard["student"]),
        speeds=run.speeds(),
        failed=run.failed,
        vocoder=synthesizer.vocoder.title,
    )


def stem(number: int, text: str, digits: int = 3) -> str:
    """`001-the-first-words`: the name of a text's files, safe on every system."""
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if len(slug) > 40:
        slug = slug[:41].rpartition("-")[0] or slug[:40]
    return f"{number:0{digits}d}-{slug}".rstrip("-")


def _suffixes(keys: Mapping[str, str]) -> dict[str, str]:
    """What tells the files of each voice beside from others', by its name; `keys` likewise.

    It is the name, or the key where that is a path, say, or differs from another only in capitals,
    which not all systems tell apart.
    """
    taken = [TEACHER, *keys.values(), *(name.casefold() for name in keys)]
    return {
        name: name
        if re.fullmatch(r"[A-Za-z0-9._-]{1,40}", name) and taken.count(name.casefold()) == 1
        else key
        for name, key in keys.items()
    }


class _Run:
    """The state of one `speak_lines`."""

    def __init__(
        self,
        lines: Sequence[Line],
        synthesizer: Synthesizer,
        teacher: TeacherSynthesizer | None,
        beside: Sequence[Student],
        out: Path,
        pace: float,
        sentence_silence: float,
        teacher_note: str,
        save_mel: bool,
    ) -> None:
        self.lines = lines
        self.synthesizer = synthesizer
        self.teacher = teacher
        self.beside = beside
        self.keys = {voice.who: f"beside-{i}" for i, voice in enumerate(beside, start=1)}
        self.suffixes = _suffixes(self.keys)
        self.out = out
        self.pace = pace
        self.sentence_silence = sentence_silence
        self.save_mel = save_mel
        self.page = Page(self._facts(teacher_note))
        self.records: list[dict[str, Any]] = []
        self.heard: dict[str, list[Work]] = defaultdict(list)
        self.failed: list[str] = []

    def speak(self, show_text: bool) -> None:
        unknown = UnknownCharacters()
        digits = max(3, len(str(len(self.lines))))
        progress = tqdm(
            self.lines,
            "speaking",
            unit=" texts",
            disable=len(self.lines) < 2,
            # A log file needs a line now and then, not ten a second.
            mininterval=0.5 if sys.stderr.isatty() else 15.0,
        )
        for number, line in enumerate(progress, start=1):
            for warning in unknown.add(line.text, line.where):
                tqdm.write(f"note: {warning}", file=sys.stderr)
            try:
                with undisturbed():
                    student = self.synthesizer(line.text, self.pace, self.sentence_silence)
                    teacher = (
                        self.teacher(line.text, sentence_silence=self.sentence_silence)
                        if self.teacher is not None
                        else None
                    )
                    beside = self.speak_beside(line.text)
            except InputError as e:
                self.failed.append(f"{line.where}: {e}")
                if len(self.lines) > 1:
                    tqdm.write(f"not spoken: {self.failed[-1]}", file=sys.stderr)
                continue
            dropped = [describe_character(c) for c in unknown_characters(line.text)]
            if show_text:
                tqdm.write(f"{line.text}\n  spoken as: {student.spoken}")
                for character in dropped:
                    tqdm.write(f"  not spoken: {character}")
            name = stem(number, student.spoken, digits)
            self._keep(Entry(name, line.text, dropped, student, teacher, beside))

    def speak_beside(self, text: str) -> tuple[Beside, ...]:
        """The text by each voice beside; an InputError says which one it was."""
        spoken = []
        for voice in self.beside:
            who = voice.who
            try:
                speech = voice.synthesizer(text, self.pace, self.sentence_silence)
            except InputError as e:
                raise InputError(f"{who}, beside the voice: {e}") from e
            spoken.append(Beside(self.keys[who], who, speech, self.suffixes[who]))
        return tuple(spoken)

    def _keep(self, entry: Entry) -> None:
        """Writes a text's files, and prints a line about it."""
        student, teacher = entry.student, entry.teacher
        heard = [("student", entry.name, student)]
        if teacher is not None:
            heard.append(("teacher", f"{entry.name}.teacher", teacher))
        heard += [(voice.name, voice.stem(entry.name), voice.speech) for voice in entry.beside]
        for who, name, speech in heard:
            write_wav(self.out / f"{name}.wav", speech.wav)
            if self.save_mel:
                write_mel(self.out / f"{name}.npy", speech.mel)
            self.heard[who].append(Work(speech.duration, speech.seconds))
        plot_speech(self.out / f"{entry.name}.png", student, teacher, student.spoken)
        self.page.add(entry)
        self.records.append(entry_record(entry, self.save_mel))
        speed = times_real_time([student])
        tqdm.write(
            f"{entry.name}.wav  {student.duration:.2f} s, "
            f"{speed['all']:.1f} x real time (mel {speed['mel']:.0f} x, "
            f"vocoder {speed['vocoder']:.1f} x)"
        )

    def speeds(self) -> dict[str, dict[str, float]]:
        return {who: times_real_time(work) for who, work in self.heard.items()}

    def write(self) -> None:
        """Writes results.json and the page."""
        facts, speeds = self.page.facts, self.speeds()
        write_json(
            self.out / RECORD,
            {
                "version": RECORD_VERSION,
                "lightspeech": lightspeech.__version__,
                "date": facts.date,
                "voice": voice_record(self.synthesizer),
                "teacher": None
                if self.teacher is None
                else {**self.teacher.identity, "parameters": facts.teacher_parameters},
                "beside": {voice.who: voice_record(voice.synthesizer) for voice in self.beside},
                **vocoder_record(self.synthesizer.vocoder),
                "device": facts.device,
                "pace": self.pace,
                "sentence_silence": self.sentence_silence,
                "times_real_time": {
                    who: {stage: round(speed, 3) for stage, speed in stages.items()}
                    for who, stages in speeds.items()
                },
                "not_spoken": self.failed,
                "texts": self.records,
            },
        )
        self.page.write(self.out / PAGE, {self.keys.get(who, who): s for who, s in speeds.items()})

    def _facts(self, teacher_note: str) -> Facts:
        voice, teacher = self.synthesizer.voice, self.teacher
        return Facts(
            voice=str(voice.get("name", "unnamed")),
            voice_details=_details(voice),
            student_parameters=self.synthesizer.parameters,
            vocoder=self.synthesizer.vocoder.title,
            device=describe_device(self.synthesizer.device),
            pace=self.pace,
            date=datetime.now().astimezone().isoformat(" ", "minutes"),
            teacher=None
            if teacher is None
            else str(teacher.teacher.source.get("name", "Tacotron 2")),
            teacher_parameters=0 if teacher is None else teacher.parameters,
            teacher_note=teacher_note,
            beside=tuple((self.keys[v.who], v.who, v.synthesizer.parameters) for v in self.beside),
            beside_details={
                self.keys[v.who]: [v.synthesizer.voice["name"], *_details(v.synthesizer.voice)]
                for v in self.beside
            },
        )


def _details(voice: Mapping[str, Any]) -> list[str]:
    """Lines about a voice: how long it was trained, and on how much."""
    details = []
    if voice.get("config") and voice.get("step") is not None:
        details.append(f"configuration {voice['config']['name']}, step {voice['step']:,}")
    if utterances := voice.get("store", {}).get("utterances"):
        details.append(f"learned from {utterances:,} utterances of its teacher")
    return details


def vocoder_record(vocoder: Vocoder) -> dict[str, Any]:
    """What records say of a vocoder: its name, its checkpoint if it has one, why `auto` took it."""
    source = vocoder.source
    return {
        "vocoder": vocoder.name,
        "vocoder_checkpoint": {key: source[key] for key in ("name", "sha256")} if source else None,
        "vocoder_reason": vocoder.reason or None,
    }


def describe_device(device: torch.device) -> str:
    """`CPU (x86_64, 2 threads)` or the name of the graphics card."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU ({platform.machine()}, {threads} thread{'s' if threads > 1 else ''})"
