"""Mutates checkpoint files and judges what loading them comes to.

    python -m tests.fuzzing 2000        # so many of each file, as a table; under a memory limit

What is accepted, of each mutated file:

- `error`: an error of one line (CheckpointError or InputError).
- `identical`: the model of the original file, bit for bit.
- `weights`: PyTorch's legacy format has no checksum, so a change within the numbers themselves
  cannot be told from other numbers. Then configuration and audio facts are the original's, every
  weight is finite, and every weight in the file is, bit for bit, what the mutated file has at the
  place where the original has that weight: the change did what it says and nothing else.

Everything else is a failure: another exception, another shape or configuration, a weight that was
read from elsewhere, a load that takes longer than 5 seconds, code that runs, a file that appears.
"""

from __future__ import annotations

import codecs
import collections
import dataclasses
import json
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightspeech.errors import InputError
from lightspeech.vocoders import hifigan
from safeload import CheckpointError, Kind, find_state_dict, read_checkpoint_file
from tests import crafted_checkpoints as crafted
from waveglow.convert import convert
from waveglow.load import KIND, load_waveglow

FIXTURES = Path(__file__).parent / "fixtures"
SECONDS = 5
MEMORY = 4 << 30
EDGE = 40_000
"""bytes at either end of a file that are hit as often as all of it: the pickles and directories"""

HIFIGAN_CONFIG = {
    "resblock": "1",
    "upsample_rates": [16, 16],
    "upsample_kernel_sizes": [32, 32],
    "upsample_initial_channel": 16,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
    "num_mels": 80,
    "n_fft": 1024,
    "hop_size": 256,
    "win_size": 1024,
    "sampling_rate": 22050,
    "fmin": 0,
    "fmax": 8000,
}


@dataclass(frozen=True)
class Model:
    """All that loading a file gives, for comparison."""

    config: dict[str, Any]
    audio_facts: dict[str, Any]
    weights: dict[str, Tensor]

    def equals(self, other: Model) -> bool:
        return (
            self.config == other.config
            and self.audio_facts == other.audio_facts
            and self.weights.keys() == other.weights.keys()
            and all(same_bits(self.weights[n], other.weights[n]) for n in self.weights)
        )


@dataclass(frozen=True)
class Victim:
    """A checkpoint to mutate."""

    name: str
    files: dict[str, bytes]
    """name -> content; the first is the one that is loaded"""
    mutated: tuple[str, ...]
    """the files that are mutated, one at a time"""
    load: Callable[[Path], Model]
    kind: Kind
    has_checksum: bool

    def write(self, folder: Path) -> Path:
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder / next(iter(self.files))


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)


def bits(a: Tensor) -> bytes:
    return a.detach().contiguous().numpy().tobytes()


def in_stored_order(a: Tensor) -> bytes:
    """The bytes of a tensor that lies without gaps, though maybe transposed, in its storage."""
    return bits(torch.as_strided(a, (a.numel(),), (1,), a.storage_offset()))


def steps(a: Tensor) -> list[int]:
    """The strides that matter: those of axes of more than one element."""
    return [stride for stride, size in zip(a.stride(), a.shape, strict=True) if size > 1]


def _load_waveglow(path: Path) -> Model:
    model = load_waveglow(path)
    return Model(model.config.as_dict(), model.audio_facts, dict(model.state_dict()))


def _load_hifigan(path: Path) -> Model:
    vocoder = hifigan.load_hifigan(path)
    config = dataclasses.asdict(vocoder.generator.config)
    return Model(config, vocoder.audio_facts, dict(vocoder.generator.state_dict()))


def _hifigan_weights() -> dict[str, Tensor]:
    """A generator as it is published, with its weight norm."""
    generator = torch.Generator().manual_seed(0)
    config = hifigan.HifiGanConfig.from_dict(HIFIGAN_CONFIG)
    with torch.device("meta"):
        shapes = {n: w.shape for n, w in hifigan.Generator(config).state_dict().items()}
    weights = {}
    for name, shape in shapes.items():
        weight = torch.randn(shape, generator=generator)
        if name.endswith(".weight"):
            weights[f"{name}_g"] = weight.flatten(1).norm(dim=1).reshape(-1, 1, 1)
            weights[f"{name}_v"] = weight
        else:
            weights[name] = weight
    return weights


def victims(folder: Path) -> dict[str, Victim]:
    """All files to mutate; `folder` is for making some of them."""
    found = {}
    for layout in ("module_zip", "module_legacy", "module_oldest_legacy", "ddp_statedict"):
        file = f"waveglow_{layout}.pt"
        content = (FIXTURES / file).read_bytes()
        found[layout] = Victim(
            layout, {file: content}, (file,), _load_waveglow, KIND, content.startswith(b"PK")
        )
    convert(FIXTURES / "waveglow_module_zip.pt", folder / "w.safetensors")
    files = {name: (folder / name).read_bytes() for name in ("w.safetensors", "w.json")}
    found["safetensors"] = Victim(
        "safetensors", files, ("w.safetensors", "w.json"), _load_waveglow, KIND, True
    )
    config = json.dumps(HIFIGAN_CONFIG).encode()
    torch.save({"generator": _hifigan_weights()}, folder / "zipped")
    _save_legacy(folder / "legacy", _hifigan_weights())
    for form in ("zipped", "legacy"):
        files = {"generator": (folder / form).read_bytes(), "config.json": config}
        name = f"hifigan_{form}"
        found[name] = Victim(
            name, files, ("generator",), _load_hifigan, hifigan.KIND, form == "zipped"
        )
    return found


def _save_legacy(path: Path, weights: dict[str, Tensor]) -> None:
    """What torch.save writes, but with keys that are no addresses, which change from run to run."""
    keys = {name: f"{10**13 + 64 * i}" for i, name in enumerate(weights)}
    items = [
        crafted.text(name)
        + crafted.tensor(
            crafted.legacy_storage(keys[name], weight.numel()),
            tuple(weight.shape),
            weight.stride(),
        )
        for name, weight in weights.items()
    ]
    program = crafted.program(b"}", crafted.text("generator"), b"}(", *items, b"us")
    crafted.legacy(path, program, {keys[name]: bits(weight) for name, weight in weights.items()})


# Mutations.


def mutate(rng: np.random.Generator, content: bytes) -> tuple[bytes, str]:
    """A damaged copy, and in words how it was damaged."""
    damage = rng.choice(list(_DAMAGES), p=_SHARES)
    return _DAMAGES[damage](rng, content)


def _place(rng: np.random.Generator, content: bytes) -> int:
    """A byte of the file; half of the time one near its beginning or end."""
    choice = rng.random()
    if choice < 0.3:
        return int(rng.integers(min(EDGE, len(content))))
    if choice < 0.5:
        return len(content) - 1 - int(rng.integers(min(EDGE, len(content))))
    return int(rng.integers(len(content)))


def _length(rng: np.random.Generator, content: bytes) -> int:
    """A length of a section: short ones as likely as long ones."""
    return int(min(len(content) // 2, 2 ** rng.uniform(0, 15)))


def _bit_flips(rng: np.random.Generator, content: bytes) -> tuple[bytes, str]:
    changed = bytearray(content)
    places = [(_place(rng, content), int(rng.integers(8))) for _ in range(rng.integers(1, 9))]
    if rng.random() < 0.3:  # all close to the first
        first = places[0][0]
        places = [(min(len(content) - 1, first + i // 2), bit) for i, (_, bit) in enumerate(places)]
    for place, bit in places:
        changed[place] ^= 1 << bit
    return bytes(changed), f"bits flipped at {places}"


def _truncation(rng: np.random.Generator, content: bytes) -> tuple[bytes, str]:
    end = _place(rng, content)
    return content[:end], f"cut after {end} bytes"


def _swap(rng: np.random.Generator, content: bytes) -> tuple[bytes, str]:
    """Two sections of one length change places."""
    length = _length(rng, content)
    a, b = sorted(min(_place(rng, content), len(content) - length) for _ in range(2))
    length = min(length, b - a) or 1
    changed = bytearray(content)
    changed[a : a + length] = content[b : b + length]
    changed[b : b + length] = content[a : a + length]
    return bytes(changed), f"{length} bytes at {a} and {b} exchanged"


def _duplicate(rng: np.random.Generator, content: bytes) -> tuple[bytes, str]:
    a, b, length = _place(rng, content), _place(rng, content), _length(rng, content)
    block = content[a : a + length]
    return content[:b] + block + content[b:], f"{len(block)} bytes at {a} repeated at {b}"


def _overwrite(rng: np.random.Generator, content: bytes) -> tuple[bytes, str]:
    """A block is written over another, as by a disk's error."""
    a, b, length = _place(rng, content), _place(rng, content), _length(rng, content)
    block = content[a : a + length][: len(content) - b]
    changed = content[:b] + block + content[b + len(block) :]
    return changed, f"{len(block)} bytes at {a} written over {b}"


def _insert(rng: np.random.Generator, content: bytes) -> tuple[bytes, str]:
    place, block = _place(rng, content), rng.bytes(_length(rng, content))
    return content[:place] + block + content[place:], f"{len(block)} bytes inserted at {place}"


def _remove(rng: np.random.Generator, content: bytes) -> tuple[bytes, str]:
    place, length = _place(rng, content), _length(rng, content)
    return content[:place] + content[place + length :], f"{length} bytes at {place} removed"


def _extreme(rng: np.random.Generator, content: bytes) -> tuple[bytes, str]:
    """Numbers that programs trip over: 0, -1, and the largest of some lengths."""
    place = _place(rng, content)
    word = [b"\0" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f", b"\xff", b"\0", b"\0\0\0\x80"][
        rng.integers(6)
    ]
    changed = content[:place] + word + content[place + len(word) :]
    return changed[: len(content)], f"{word!r} written at {place}"


_DAMAGES = {
    "bits": _bit_flips,
    "truncation": _truncation,
    "swap": _swap,
    "duplicate": _duplicate,
    "overwrite": _overwrite,
    "insert": _insert,
    "remove": _remove,
    "extreme": _extreme,
}
_SHARES = (0.4, 0.1, 0.15, 0.07, 0.07, 0.07, 0.07, 0.07)


# Judgement.


class Failure(AssertionError):  # noqa: N818 - a verdict
    """A mutated file did what none may do."""


_watched: list[str] | None = None
_EVENTS = ("exec", "compile", "marshal.loads", "pickle.find_class", "subprocess.Popen")


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Notes what only executed code would do; an audit hook, which cannot be removed again."""
    if _watched is None:
        return
    if event in _EVENTS or event.startswith(("os.system", "os.exec", "os.spawn", "os.posix")):
        _watched.append(event)
    elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        _watched.append(f"open {arguments[0]!r}")
    elif event in ("os.mkdir", "os.remove", "os.rename", "socket.connect", "import"):
        _watched.append(f"{event} {arguments[0]!r}")


@contextmanager
def guarded() -> Iterator[list[str]]:
    """Gives up after SECONDS, and lists the events that only executed code would cause."""
    global _watched

    def expire(*_: Any) -> None:
        raise Failure(f"it took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    _watched = events = []
    try:
        yield events
    finally:
        _watched = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Judge:
    """Judges mutations of one victim, in a folder of its own."""

    def __init__(self, victim: Victim, folder: Path) -> None:
        self.victim = victim
        self.folder = folder
        self.path = victim.write(folder)
        self.original = victim.load(self.path)
        self.places = {} if victim.has_checksum else self._places()

    def _places(self) -> dict[str, tuple[int, Tensor]]:
        """Where each weight's numbers lie in the file, by searching for their bytes.

        A module under weight norm may hold the product beside its factors, with the same numbers;
        which of the two is the weight is seen by changing one.
        """
        content = self.path.read_bytes()
        places = {}
        for name, weight in self._raw().items():
            stored = in_stored_order(weight)
            found = [content.find(stored)]
            while (again := content.find(stored, found[-1] + 1)) >= 0:
                found.append(again)
            while len(found) > 1:
                place = found.pop()
                changed = bytearray(content)
                changed[place] ^= 1
                self.path.write_bytes(changed)
                if not same_bits(self._raw()[name], weight):
                    found = [place]
            assert found[0] >= 0, name
            places[name] = (found[0], weight)
        self.path.write_bytes(content)
        return places

    def _raw(self) -> dict[str, Tensor]:
        return find_state_dict(read_checkpoint_file(self.path, self.victim.kind))

    def run(self, number: int) -> tuple[str, str]:
        """Mutation `number`, the same each time -> the outcome, and the message if an error.

        Raises Failure, with what to run to see it again.
        """
        victim = self.victim
        rng = np.random.default_rng([zlib.crc32(victim.name.encode()), number])
        file = victim.mutated[rng.integers(len(victim.mutated))]
        changed, how = mutate(rng, victim.files[file])
        (self.folder / file).write_bytes(changed)
        try:
            return self._outcome(changed)
        except Failure as e:
            raise Failure(f"{victim.name}, mutation {number} ({file}: {how}): {e}") from e
        finally:
            (self.folder / file).write_bytes(victim.files[file])

    def _outcome(self, changed: bytes) -> tuple[str, str]:
        try:
            with guarded() as events:
                model = self.victim.load(self.path)
        except (CheckpointError, InputError) as e:
            if "\n" in str(e) or len(str(e)) > 1000:
                raise Failure(f"its message is no single line: {e}") from e
            outcome, message = "error", str(e)
        except Failure:
            raise
        except BaseException as e:
            raise Failure(f"{type(e).__name__}: {e}") from e
        else:
            outcome, message = self._loaded(model, changed), ""
        if events:
            raise Failure(f"something ran: {events}")
        if sorted(p.name for p in self.folder.iterdir()) != sorted(self.victim.files):
            raise Failure("a file appeared")
        return outcome, message

    def _loaded(self, model: Model, changed: bytes) -> str:
        if model.equals(self.original):
            return "identical"
        if self.victim.has_checksum:
            raise Failure("another model was loaded in spite of the checksums")
        if (model.config, model.audio_facts) != (self.original.config, self.original.audio_facts):
            raise Failure(f"another configuration: {model.config} {model.audio_facts}")
        if not all(weight.isfinite().all() for weight in model.weights.values()):
            raise Failure("weights that are not finite")
        raw = self._raw()
        if raw.keys() != self.places.keys():
            raise Failure("other weights")
        for name, (place, weight) in self.places.items():
            there = changed[place : place + weight.nbytes]
            found = raw[name]
            if (found.dtype, found.shape) != (weight.dtype, weight.shape):
                raise Failure(f"{name} has another shape or type")
            if steps(found) != steps(weight) or in_stored_order(found) != there:
                raise Failure(f"{name} is not what the file has in its place")
        return "weights"


def watch() -> None:
    """Installs the audit hook, once; and imports what only damaged texts make Python import."""
    for encoding in ("cp437", "raw_unicode_escape", "unicode_escape"):
        codecs.lookup(encoding)
    if not getattr(watch, "installed", False):
        sys.addaudithook(_watch)
        watch.installed = True  # type: ignore[attr-defined]


def main() -> None:
    import resource

    count = int(sys.argv[1])
    names = sys.argv[2:]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    watch()
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(dir=memory))
    failures = []
    print("file                  errors identical weights failures  slowest  peak memory")
    try:
        (folder / "made").mkdir()
        for name, victim in victims(folder / "made").items():
            if names and name not in names:
                continue
            own = folder / name
            own.mkdir()
            judge = Judge(victim, own)
            outcomes: collections.Counter[str] = collections.Counter()
            slowest = 0.0
            for number in range(count):
                start = time.perf_counter()
                try:
                    outcomes[judge.run(number)[0]] += 1
                except Failure as e:
                    outcomes["failure"] += 1
                    failures.append(str(e))
                slowest = max(slowest, time.perf_counter() - start)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{name:<22}"
                + "".join(f"{outcomes[o]:>8}" for o in ("error", "identical", "weights", "failure"))
                + f"{slowest:>8.2f} s {peak:>8.0f} MB",
                flush=True,
            )
    finally:
        shutil.rmtree(folder)
    for failure in failures:
        print(failure)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
