"""Makes pairs of mel and sound for a light vocoder to learn from, out of a label store.

python -m lightspeech.vocoder_pairs --store store-forced --voice runs/lightspeech --out mels
    a student says the texts of recordings at their durations, so that its mels go with their sound:
    then train_vocoder --wavs recordings --mels mels
python -m lightspeech.vocoder_pairs --store store --vocoder waveglow:FILE --out pairs
    a vocoder makes the sound of a teacher's mels: then train_vocoder --wavs pairs --mels pairs

store-forced is what preprocess.py --mode forced makes. The command may be stopped and run again,
and torchrun shares the work among processes.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from lightspeech import cli
from lightspeech.audio import AUDIO_FACTS, write_wav
from lightspeech.checkpoint import find_voice, load_voice
from lightspeech.errors import InputError
from lightspeech.files import make_folder, read_json, remove_leftovers, sha256, write_json
from lightspeech.mel_file import write_mel
from lightspeech.model import LightSpeech
from lightspeech.process_group import device_of, joined, wait_for_all
from lightspeech.ranks import Ranks
from lightspeech.store import Label, LabelStore
from lightspeech.vocoders import Vocoder, load_vocoder

CARD = "pairs.json"


@dataclass(frozen=True)
class Identity:
    """What a folder of pairs was made from."""

    store: str
    """digest"""
    voice: str | None
    """SHA-256"""
    vocoder: str | None
    """its title"""


def make_pairs(
    store: LabelStore,
    out: Path,
    *,
    student: LightSpeech | None = None,
    vocoder: Vocoder | None = None,
    limit: int | None = None,
    ranks: Ranks | None = None,
) -> tuple[int, int]:
    """Writes `ID.npy`, and with a vocoder `ID.wav`, for each label of this process's share.

    Args:
        student: says the labels' texts at their durations; without one the store's mels are taken.
        vocoder: makes the sound; without one there are mels alone.
        limit: of labels of the store, from the first one on.

    Returns:
        how many were made, and how many were there already.
    """
    ranks = ranks or Ranks()
    ids = [id for id in store.ids[:limit] if ranks.has(id)]
    positions = {id: position for position, id in enumerate(store.ids)}
    last = ".npy" if vocoder is None else ".wav"  # what is written last, and so says it is done
    missing = [id for id in ids if not (out / f"{id}{last}").is_file()]
    shown = tqdm(missing, "pairs", unit=" pairs", disable=ranks.rank > 0, mininterval=1.0)
    for id in shown:
        label = store[positions[id]]
        mel = label.mel.float() if student is None else spoken(student, label)
        write_mel(out / f"{id}.npy", mel)
        if vocoder is not None:
            write_wav(out / f"{id}.wav", vocoder(mel).cpu())
    return len(missing), len(ids) - len(missing)


@torch.no_grad()
def spoken(student: LightSpeech, label: Label) -> Tensor:
    """What a student says of a label's text at the label's durations, (T, M) on the CPU."""
    device = next(student.parameters()).device
    tokens, durations = (x.long()[None].to(device) for x in (label.tokens, label.durations))
    lengths = torch.tensor([tokens.shape[1]], device=device)
    return student(tokens, lengths, durations).mel[0].float().cpu()


def hold(out: Path, identity: Identity) -> None:
    """Makes the folder and its card, or sees that it is of the same pairs.

    Raises:
        InputError: it holds other pairs, or something else.
    """
    make_folder(out)
    if (out / CARD).is_file():
        if read_json(out / CARD, "card of the pairs").get("of") != asdict(identity):
            raise InputError(
                f"{out} holds pairs of another store, voice or vocoder: give another --out"
            )
        remove_leftovers(out)
        return
    if any(not item.name.startswith(".") for item in out.iterdir()):
        raise InputError(f"{out} is not empty, and holds no pairs: give another folder with --out")
    write_json(out / CARD, {"of": asdict(identity), "audio": AUDIO_FACTS})


# fmt: off
def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lightspeech.vocoder_pairs", description=__doc__,
        formatter_class=cli.HelpFormatter,
    )
    add = parser.add_argument
    add("--store", metavar="STORE", type=Path, required=True, help="labels to make pairs of")
    add("--out", metavar="DIR", type=Path, required=True, help="where they go")
    add("--voice", metavar="VOICE", type=Path,
        help="a student whose mels to take; without it, those of the store")
    add("--vocoder", metavar="NAME",
        help="makes the sound, as synthesize.py takes it; without it, mels alone")
    add("--limit", metavar="N", type=cli.positive_int, help="labels to take, from the first on")
    cli.add_device_option(parser)
    add("--threads", metavar="N", type=cli.positive_int,
        help="CPU threads of each process (default: all cores, of three or more all but one)")
    return parser
# fmt: on


def main() -> None:
    args = build_parser().parse_args()
    if args.voice is None and args.vocoder is None:
        raise InputError("nothing to make: give --voice, --vocoder or both")
    ranks = Ranks.from_environment()
    device = device_of(ranks, args.device)
    cli.use_threads(args.threads)
    store = LabelStore.open(args.store)
    student = load_voice(args.voice, device)[0] if args.voice else None
    vocoder = load_vocoder(args.vocoder, device) if args.vocoder else None
    identity = Identity(
        store.digest,
        sha256(find_voice(args.voice)) if args.voice else None,
        vocoder.title if vocoder else None,
    )
    with joined(ranks, device):
        if ranks.rank == 0:
            hold(args.out, identity)
        wait_for_all(ranks)
        made, there = make_pairs(
            store, args.out, student=student, vocoder=vocoder, limit=args.limit, ranks=ranks
        )
    before = f", {there:,} were there" if there else ""
    print(f"{ranks.prefix}{made:,} pairs made in {args.out}{before}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
