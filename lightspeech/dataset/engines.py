"""Speech engines of a Linux distribution: finding them, their voices, and running them.

An engine is a program that is started without a shell, in a folder of its own, on files of plain
names (`000.txt`, `000.wav`); no text ever stands in a command line. What an engine's own language
could take for a command (Scheme's quotes, eSpeak's markup) is taken out of the texts first.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import wave
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from lightspeech.errors import InputError

_QUESTION_SECONDS = 60.0
"""how long an engine may take to tell its version or voices"""
_POLL_SECONDS = 0.005
_LOOK_SECONDS = 0.1
_VERSION = re.compile(r"\d+(?:\.\d+)+[\w.-]*")
_VOICE_NAME = re.compile(r"[A-Za-z0-9][\w+.-]{0,99}", re.ASCII)


class Engine(ABC):
    """One program, with one of its voices.

    Raises:
        InputError: the program is not installed, does not answer, or has no such voice.
    """

    name: str
    """as --engine has it"""
    packages: str
    """what `apt install` needs for it"""
    default_voices: Sequence[str]
    """the first of them that is installed is the default"""
    at_once: int
    """utterances that one process speaks"""
    licence: str
    """of program and voice; of the default voice where voices differ"""

    def __init__(self, voice: str | None = None) -> None:
        program = shutil.which(self.name)
        if program is None:
            raise InputError(
                f"the speech engine {self.name} is not installed; on Debian or Ubuntu: "
                f"apt install {self.packages}"
            )
        self._program = os.path.abspath(program)  # it runs in another folder
        answer = self._ask(self.version_question)
        found = _VERSION.search(answer)
        self.version = found[0] if found else " ".join(answer.split())[:80] or "unknown"
        self.voice = self._choose(voice, self.voices())

    version_question: Sequence[str] = ("--version",)

    @abstractmethod
    def voices(self) -> list[str]:
        """The names of the voices that are installed."""

    @abstractmethod
    def command(self, texts: Sequence[str], folder: Path) -> list[str]:
        """Writes what one process needs to speak the texts, and returns its arguments.

        Args:
            texts: 1 to `at_once`, as `spoken` gave them.
            folder: in which the process runs, and writes text i to the file `wav_name(i)`.
        """

    def spoken(self, text: str) -> str:
        """A text without what the engine could take for anything else than text."""
        return "".join(character if character.isprintable() else " " for character in text)

    def _choose(self, asked: str | None, installed: Sequence[str]) -> str:
        for name in [asked] if asked is not None else self.default_voices:
            if _VOICE_NAME.fullmatch(name) and self._has_voice(name, installed):
                return name
        shown = ", ".join(sorted(installed)[:20]) or "none"
        more = f" and {len(installed) - 20} more" if len(installed) > 20 else ""
        wanted = asked if asked is not None else self.default_voices[0]
        raise InputError(
            f"{self.name} has no voice {wanted[:100]!r} here; it has {shown}{more}; take one of "
            f"these with --voice, or install others (the default's: apt install {self.packages})"
        )

    def _has_voice(self, name: str, installed: Sequence[str]) -> bool:
        return name in installed

    def _ask(self, arguments: Sequence[str]) -> str:
        """What the program prints for a question about itself."""
        try:
            answer = subprocess.run(
                [self._program, *arguments],
                env=_environment("/nonexistent"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_QUESTION_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as e:
            raise InputError(
                f"{self.name} did not answer {' '.join(arguments)} in {_QUESTION_SECONDS:.0f} s; "
                f"reinstall it: apt install --reinstall {self.packages}"
            ) from e
        except OSError as e:
            raise InputError(
                f"cannot start {self._program} ({e.strerror or e}); reinstall it: "
                f"apt install --reinstall {self.packages}"
            ) from e
        return answer.stdout.decode("utf-8", "replace")

    def start(self, texts: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
        """Starts a process on the texts; see `command`."""
        return subprocess.Popen(
            [self._program, *self.command(texts, folder)],
            cwd=folder,
            env=_environment(str(folder.absolute())),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us, who then end it
        )


class Festival(Engine):
    """University of Edinburgh's Festival: one Scheme program speaks many utterances."""

    name = "festival"
    packages = "festival festvox-us-slt-hts"
    default_voices = ("cmu_us_slt_arctic_hts",)
    at_once = 50
    licence = (
        "Festival: University of Edinburgh's and Carnegie Mellon University's free licences, "
        "like X11's. Voice cmu_us_slt_arctic_hts (Debian: festvox-us-slt-hts): free to use, copy, "
        "modify and distribute with the notice, the names of the authors and changes marked; "
        "parts under the 3-clause BSD licence. Other voices have their own: "
        "/usr/share/doc/PACKAGE/copyright"
    )

    def voices(self) -> list[str]:
        listed = self._ask(["--batch", "(print (voice.list))"])
        found = re.search(r"^\(([^()]*)\)\s*$", listed, re.MULTILINE)
        return found[1].split() if found else []

    def spoken(self, text: str) -> str:
        return super().spoken(text.replace("\\", " ").replace('"', " "))

    def command(self, texts: Sequence[str], folder: Path) -> list[str]:
        program = [
            f"(voice_{self.voice})",
            "(define (say text file) (let ((u (utt.synth (eval (list 'Utterance 'Text text)))))"
            " (utt.save.wave u file 'riff)))",
        ]
        program += [
            f"(say {scheme_string(text)} {scheme_string(wav_name(i))})"
            for i, text in enumerate(texts)
        ]
        (folder / "say.scm").write_text("\n".join(program) + "\n", encoding="utf-8")
        return ["--batch", "say.scm"]


class Flite(Engine):
    """Carnegie Mellon University's Flite: a process an utterance."""

    name = "flite"
    packages = "flite"
    default_voices = ("slt", "rms", "awb", "kal16", "kal")
    at_once = 1
    licence = (
        "Flite and the voices in it: Carnegie Mellon University's free licence, like X11's: free "
        "to use, copy, modify and distribute with the notice, the names of the authors and "
        "changes marked (/usr/share/doc/flite/copyright)"
    )

    def voices(self) -> list[str]:
        found = re.search(r"Voices available:(.*)", self._ask(["-lv"]))
        return found[1].split() if found else []

    def command(self, texts: Sequence[str], folder: Path) -> list[str]:
        (folder / "000.txt").write_text(texts[0] + "\n", encoding="utf-8")
        return ["-voice", self.voice, "-f", "000.txt", "-o", wav_name(0)]


class EspeakNg(Engine):
    """eSpeak NG: a process an utterance. A voice is a language, or has `+variant` behind it."""

    name = "espeak-ng"
    packages = "espeak-ng"
    default_voices = ("en-us", "en")
    at_once = 1
    licence = "eSpeak NG and its voices: GPL-3.0-or-later (/usr/share/doc/espeak-ng/copyright)"

    def voices(self) -> list[str]:
        rows = [row.split() for row in self._ask(["--voices"]).splitlines()[1:]]
        return list(dict.fromkeys(row[1] for row in rows if len(row) > 4))

    def _has_voice(self, name: str, installed: Sequence[str]) -> bool:
        voice, plus, variant = name.partition("+")
        if voice not in installed:
            return False
        variants = self._ask(["--voices=variant"]).split() if plus else []
        return not plus or f"!v/{variant}" in variants

    def spoken(self, text: str) -> str:
        return super().spoken(re.sub(r"[<>&\[\]]", " ", text))  # SSML, and [[phonemes]]

    def command(self, texts: Sequence[str], folder: Path) -> list[str]:
        (folder / "000.txt").write_text(texts[0] + "\n", encoding="utf-8")
        return ["-v", self.voice, "-f", "000.txt", "-w", wav_name(0)]


ENGINES: dict[str, type[Engine]] = {kind.name: kind for kind in (Festival, Flite, EspeakNg)}
"""By the name that --engine takes."""


def _environment(home: str) -> dict[str, str]:
    """Where no configuration of the user's own changes the voice, and no locale the numbers."""
    return {**os.environ, "HOME": home, "LC_ALL": "C"}


def scheme_string(text: str) -> str:
    """A literal of Scheme; what could end it, or begin an escape, becomes a space."""
    return '"' + re.sub(r'["\\\x00-\x1f\x7f]', " ", text) + '"'


def wav_name(index: int) -> str:
    """The file into which the text of that index within a process is spoken."""
    return f"{index:03d}.wav"


class Stopped(Exception):  # noqa: N818 - no error
    """`render` was asked to stop."""


def render(
    engine: Engine,
    texts: Sequence[str],
    folder: Path,
    patience: float,
    take: Callable[[int, Path], None],
    stopped: Callable[[], bool] = lambda: False,
) -> dict[int, str]:
    """Lets an engine speak texts, as many a process as it can; a bad one never stops the rest.

    A process that crashes or hangs leaves the utterances before its last sound file; the one that
    it was at is tried once more alone, and given up then, and another process does the rest.

    Args:
        texts: as `Engine.spoken` gave them.
        folder: empty, and empty again afterwards; processes run in it.
        patience: seconds without a new sound file after which a process is taken to hang.
        take: gets the index of each text and its sound file, which is whole and deleted afterwards.
        stopped: asked ten times a second; ends the process.

    Returns:
        the index of each text that could not be spoken, and why.

    Raises:
        Stopped: `stopped` said so; what was spoken until then was taken.
    """
    failed: dict[int, str] = {}
    indices = list(range(len(texts)))
    groups = [indices[i : i + engine.at_once] for i in range(0, len(texts), engine.at_once)]
    while groups:
        group = groups.pop(0)
        # A process that an earlier one left behind must not write among these.
        workplace = folder / str(time.monotonic_ns())
        workplace.mkdir()
        try:
            trouble = _run(engine, [texts[i] for i in group], workplace, patience, stopped)
            sounds = [workplace / wav_name(place) for place in range(len(group))]
            there = [place for place, sound in enumerate(sounds) if _is_whole(sound)]
            if trouble is not None:
                there = there[:-1]  # the last may have been cut short
            for place in there:
                take(group[place], sounds[place])
            if stopped():
                raise Stopped
        finally:
            shutil.rmtree(workplace, ignore_errors=True)
        rest = [index for place, index in enumerate(group) if place not in there]
        if rest and len(group) == 1:
            failed[rest[0]] = trouble or f"{engine.name} made no sound file of it"
        elif rest:  # the culprit is among the first two
            groups[:0] = [part for part in (rest[:1], rest[1:2], rest[2:]) if part]
    return failed


def _run(
    engine: Engine,
    texts: Sequence[str],
    folder: Path,
    patience: float,
    stopped: Callable[[], bool],
) -> str | None:
    """Runs one process to its end, and says what was wrong with it."""
    n_sounds, since = 0, time.monotonic()
    looked = since
    process = engine.start(texts, folder)
    try:
        while (status := process.poll()) is None:
            time.sleep(_POLL_SECONDS)
            now = time.monotonic()
            if now - looked < _LOOK_SECONDS:
                continue
            looked = now
            if stopped():
                return "stopped"
            found = sum(1 for _ in folder.glob("*.wav"))
            if found > n_sounds:
                n_sounds, since = found, now
            elif now - since > patience:
                return f"{engine.name} hung: nothing came for {patience:g} s"
    finally:
        _end(process)
    if status < 0:
        return f"{engine.name} crashed with signal {-status}"
    return f"{engine.name} ended with status {status}" if status else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills a process, and those that it started, which are in its session."""
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, 9)
        process.wait()


def _is_whole(path: Path) -> bool:
    """Whether a WAV file is as long as it says; a full disk, or a kill, cuts it short."""
    try:
        with wave.open(str(path), "rb") as file:
            n_bytes = file.getnframes() * file.getnchannels() * file.getsampwidth()
        return 0 < n_bytes < path.stat().st_size
    except (OSError, EOFError, wave.Error):
        return False
