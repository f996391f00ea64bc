"""Commands for label stores: check one, see what is there, join several, export to Parquet."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lightspeech import cli
from lightspeech.audio import FRAME_SECONDS
from lightspeech.manifest import Shard, read_whole
from lightspeech.shard import MEND
from lightspeech.store import LabelStore
from lightspeech.store_export import export
from lightspeech.store_merge import merge

_EXIT = "exit status: 0 when all went well, 1 otherwise"


# fmt: off
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lightspeech.store", description=__doc__, epilog=_EXIT,
        formatter_class=cli.HelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], None], help: str, more: str = "",
                stores: str | None = None) -> Callable[..., Any]:
        made = commands.add_parser(
            name, help=help, description=f"{help[0].upper()}{help[1:]}. {more}", epilog=_EXIT,
            formatter_class=cli.HelpFormatter,
        )
        made.set_defaults(run=run)
        made.add_argument("store", metavar="STORE", type=Path, nargs=stores,
                          help="folder that preprocess.py has made")
        return made.add_argument

    command("verify", _verify, "read every byte and say what is wrong, one line a problem",
            f"To mend a store, {MEND}.")
    add = command("info", _info, "show what a store holds")
    add("--json", action="store_true", help="print JSON, with all settings")
    add = command("merge", _merge, "join stores of one teacher and the same settings",
        "An utterance that several stores hold is taken from the first of them; the same id with "
        "another text is refused. NEW appears when all is in it, or not at all.", stores="+")
    add("--out", metavar="NEW", type=Path, required=True, help="folder to be made")
    add = command("export", _export, "write a store as one Parquet file",
        "A row is an utterance, a row group a shard: id, text, seed, frames, tokens, durations, "
        "mel and memory (lists of lists of 16-bit floats) and scores. FILE appears when all is in "
        "it, or not at all; an older one is replaced.")
    add("--out", metavar="FILE", type=Path, required=True, help="Parquet file to be written")
    args = parser.parse_args()
    args.run(args)
# fmt: on


def _verify(args: argparse.Namespace) -> None:
    store = LabelStore(args.store, read_whole(args.store))
    with _progress("verifying", store) as on_shard:
        problems = store.verify(on_shard)
    for problem in problems:
        print(problem)
    shards = store.manifest["shards"]
    if problems:
        print(f"{len(problems):,} problems in {args.store}; {MEND}", file=sys.stderr)
        sys.exit(1)
    print(
        f"{args.store} is sound: {sum(s['rows'] for s in shards):,} utterances in "
        f"{len(shards):,} shards, {_megabytes(sum(s['bytes'] for s in shards))}"
    )


def _info(args: argparse.Namespace) -> None:
    facts = describe(LabelStore.open(args.store, may_be_empty=True))
    if args.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    teacher, rejects = facts["teacher"], facts["rejects"]
    print(f"{facts['utterances']:,} utterances, {facts['hours']:.2f} hours of speech")
    if facts["frames_per_token"] is not None:
        print(f"{facts['frames_per_token']:.2f} frames a token")
    print(f"teacher: {teacher['name']} (sha256 {teacher['sha256'][:12]})")
    print("settings: " + ", ".join(f"{k} {v}" for k, v in sorted(facts["labelling"].items())))
    if facts["calibration"] is not None:
        print(f"calibration: {json.dumps(facts['calibration'])}")
    print(f"{sum(rejects.values()):,} texts rejected")
    for reason, count in rejects.items():
        print(f"  {count:,}: {reason}")
    print(f"{facts['shards']:,} shards, {_megabytes(facts['bytes'])}")


def describe(store: LabelStore) -> dict[str, Any]:
    """What a store holds, in figures."""
    manifest = store.manifest
    frames, tokens = sum(store.frames), sum(store.token_counts)
    return {
        "path": str(store.path),
        "utterances": len(store),
        "frames": frames,
        "tokens": tokens,
        "hours": frames * FRAME_SECONDS / 3600,
        "frames_per_token": frames / tokens if tokens else None,
        "teacher": manifest["teacher"],
        "memory_size": manifest["memory_size"],
        "audio": manifest["audio"],
        "labelling": manifest["labelling"],
        "calibration": store.calibration,
        "rejects": dict(Counter(reject.reason for reject in store.rejects).most_common()),
        "shards": len(manifest["shards"]),
        "bytes": sum(shard["bytes"] for shard in manifest["shards"]),
        "digest": store.digest,
    }


def _merge(args: argparse.Namespace) -> None:
    done = merge(args.store, args.out)
    print(f"{args.out}: {done.utterances:,} utterances and {done.rejects:,} rejected texts")
    if done.repeated:
        print(
            f"{done.repeated:,} utterances were in more than one store; {done.different:,} of them "
            "as different renditions: the first store's were taken"
        )


def _export(args: argparse.Namespace) -> None:
    store = LabelStore.open(args.store)
    with _progress("exporting", store) as on_shard:
        export(store, args.out, on_shard)
    print(f"{args.out}: {len(store):,} utterances, {_megabytes(args.out.stat().st_size)}")


@contextmanager
def _progress(what: str, store: LabelStore) -> Iterator[Callable[[Shard], None]]:
    """A bar over the bytes of a store, where somebody watches."""
    total = sum(shard["bytes"] for shard in store.manifest["shards"])
    with tqdm(
        total=total, desc=what, unit="B", unit_scale=True, leave=False, delay=0.5,
        disable=not sys.stderr.isatty(),
    ) as bar:  # fmt: skip

        def on_shard(shard: Shard) -> None:
            bar.update(shard.bytes)

        yield on_shard


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
