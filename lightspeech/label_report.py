"""The report of a label store: STORE/report.html for people, STORE/report.json for programs.

What was kept, drawn again and rejected, and why; a histogram of every score with its limits; hours
of speech and frames a token; how fast the run was; and the worst labels that were kept, with their
alignments, so that one can see what the limits let pass.

    python -m lightspeech.label_report STORE

writes the report of a store anew. preprocess.py writes it at the end of each run.

report.json holds

    format, version, made       what it is, and when it was written
    store, digest               name of the folder; LabelStore.digest, null for an empty store
    teacher, labelling, calibration   as the store's manifest has them
    kept, rejected              labels and rejects of the store
    kept_after_retry            labels that are not the first rendition of their text; null where
                                the seeds cannot tell (with --pick, or from recordings)
    reasons                     reason -> rejects
    frames, tokens, hours       of all labels
    seconds                     distribution of an utterance's length
    frames_per_token            mean_of_all (all frames over all tokens), and its distribution
    scores                      name -> title, unit, meaning, better, low and high (the limits in
                                force, or null), and the distribution of the labels' values
    run                         what the run has done and how fast, null without one: texts,
                                already_there, rejected_before, kept, kept_after_retry, retried,
                                failures (reason -> renditions that were not good enough),
                                rejected (reason -> texts), hours, frames_spoken (for labels and in
                                vain), seconds, times_real_time, utterances_per_second, device
    worst                       up to 20 labels that came nearest to a limit, the nearest first:
                                rank, id, text, nearness (0 typical, 1 on the limit; see
                                lightspeech.label_figures.nearness), score (the one that is
                                nearest), causes (sentences), frames, tokens, seconds, scores
    rejects                     id, text, reason, tries, scores (of the last try) of every reject

A distribution has count (of finite values), min, median, mean, max, and a histogram: edges, counts,
rejected (the rejects' values in the same bins), rejected_below, rejected_above, whole.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from lightspeech import cli
from lightspeech.audio import FRAME_SECONDS
from lightspeech.files import write_json, write_text
from lightspeech.label_figures import (
    distribution,
    numbers,
    reason_counts,
    reject_scores,
    run_figures,
    score_figures,
    worst_labels,
)
from lightspeech.label_lists import Picture
from lightspeech.label_page import render_page
from lightspeech.labelling_progress import LabellingSummary
from lightspeech.manifest import Manifest, read_whole
from lightspeech.rejects import read_all_rejects
from lightspeech.respeaking import Respeak, TeacherAttention, attention_of, find_checkpoint
from lightspeech.scoring import SCORES, Score, forced_limits, scores_under
from lightspeech.shard import Label
from lightspeech.store import LabelStore
from lightspeech.store_columns import read_columns
from lightspeech.text.encode import decode
from tacotron2 import load_tacotron2

FORMAT = "lightspeech-label-report"
VERSION = 1
"""of report.json; a reader should refuse another"""

PAGE, FIGURES = "report.html", "report.json"

_MOST_PICTURE_BYTES = 2_500_000  # of all pictures of a page; those of speech take 1.5 MB
_COLOURS = 64  # of a picture: fewer compress better, and the eye does not miss the others
_PACE = Score("frames a token", "frames", "middle")
_SECONDS = Score("length of an utterance", "seconds", "middle")


def write_report(
    store_path: str | Path,
    summary: LabellingSummary | None,
    respeak: Respeak | None,
    *,
    scores: Mapping[str, Score] = SCORES,
    device: str | None = None,
) -> Path:
    """Writes STORE/report.json and STORE/report.html, each whole or not at all.

    The page takes less than 5 MB whatever the store holds. The mels of the worst labels are read,
    and no others.

    Args:
        store_path: a label store; an empty one gets a page that says so.
        summary: what the run has done that ends with this report; None without a run.
        respeak: gives the attention of a label; it is asked for the worst ones only. A
            TeacherAttention speaks them together. None: no attention is drawn.
        scores: the limits in force, by the name of a score.
        device: what the run ran on, in words.

    Returns:
        the path of the page.

    Raises:
        InputError: no store there, or one that cannot be read.
    """
    path = Path(store_path)
    manifest = read_whole(path)
    store = LabelStore.open(path) if manifest.shards else None
    report = _figures(path, manifest, store, summary, scores, device)
    labels = [store[worst.pop("index")] for worst in report["worst"]] if store is not None else []
    attentions = attention_of(respeak, labels) if respeak is not None else [None] * len(labels)
    pictures: list[Picture | None] = []
    room = _MOST_PICTURE_BYTES
    for worst, label, attention in zip(report["worst"], labels, attentions, strict=True):
        picture = _picture(label, attention)
        room -= len(picture.source)
        pictures.append(picture if room >= 0 else None)
        worst |= {"id": label.id, "text": label.text}
    follows_recordings = _follows_recordings(manifest.identity.labelling)
    note = _pictures_note(respeak is not None, attentions.count(None), follows_recordings)
    write_json(path / FIGURES, report)
    write_text(path / PAGE, render_page(report, pictures, note))
    return path / PAGE


def _figures(
    path: Path,
    manifest: Manifest,
    store: LabelStore | None,
    summary: LabellingSummary | None,
    scores: Mapping[str, Score],
    device: str | None,
) -> dict[str, Any]:
    """The figures of report.json; those of the worst labels still lack what their mels tell."""
    columns = read_columns(store) if store is not None else None
    labelled = set(columns.ids) if columns is not None else set()
    # A rank may have labelled what an earlier run, or another rank, had rejected.
    rejects = [reject for id, reject in read_all_rejects(path).items() if id not in labelled]
    identity = manifest.identity
    report: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "made": datetime.now().astimezone().isoformat(" ", "seconds"),
        "store": path.resolve().name,
        "digest": store.digest if store is not None else None,
        "teacher": {"name": identity.teacher, "sha256": identity.teacher_sha256},
        "labelling": identity.labelling,
        "calibration": manifest.calibration,
        "kept": 0,
        "kept_after_retry": None,
        "rejected": len(rejects),
        "reasons": reason_counts(rejects),
        "frames": 0,
        "tokens": 0,
        "hours": 0.0,
        "seconds": None,
        "frames_per_token": None,
        "scores": {},
        "run": run_figures(summary, device),
        "worst": [],
        "rejects": [
            {
                "id": reject.id,
                "text": reject.text,
                "reason": reject.reason,
                "tries": len(reject.seeds),
                "scores": numbers(reject.scores),
            }
            for reject in rejects
        ],
    }
    if columns is None:
        return report
    frames, tokens = int(columns.frames.sum()), int(columns.tokens.sum())
    rejected, none = reject_scores(rejects), np.zeros(0)
    pace = columns.frames / np.maximum(columns.tokens, 1)  # (L,)
    known_first = sorted(columns.scores, key=lambda name: _place(name, scores))
    report |= {
        "kept": len(columns.ids),
        "kept_after_retry": columns.drawn_again,
        "frames": frames,
        "tokens": tokens,
        "hours": frames * FRAME_SECONDS / 3600,
        "seconds": distribution(columns.frames * FRAME_SECONDS, none, _SECONDS),
        "frames_per_token": {
            "mean_of_all": frames / max(tokens, 1),
            **distribution(pace, none, _PACE),
        },
        "scores": {
            name: score_figures(
                name, columns.scores[name], rejected.get(name, none), scores.get(name)
            )
            for name in known_first
        },
        "worst": [
            {
                "rank": rank,
                "index": worst.index,
                "id": "",
                "text": "",
                "nearness": worst.nearness,
                "score": worst.score,
                "causes": list(worst.causes),
                "frames": int(columns.frames[worst.index]),
                "tokens": int(columns.tokens[worst.index]),
                "seconds": float(columns.frames[worst.index] * FRAME_SECONDS),
                "scores": numbers(
                    {name: values[worst.index] for name, values in columns.scores.items()}
                ),
            }
            for rank, worst in enumerate(worst_labels(columns.scores, scores), start=1)
        ],
    }
    return report


def _place(name: str, scores: Mapping[str, Score]) -> tuple[int, str]:
    """Known scores in the order of their definitions, and then the others by name."""
    known = list(scores)
    return (known.index(name) if name in known else len(known)), name


def _picture(label: Label, attention: Tensor | None) -> Picture:
    """A PNG with few colours, transparent, of the page's width."""
    # Here: Matplotlib takes a third of a second that labelling need not spend before it begins.
    from lightspeech.evaluation.plots import draw_label
    from lightspeech.evaluation.strips import data_uri

    figure = draw_label(decode(label.tokens.tolist()), label.durations, label.mel, attention)
    drawn, reduced = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", transparent=True)
    with Image.open(drawn) as image:
        image.quantize(_COLOURS, method=Image.Quantize.FASTOCTREE).save(
            reduced, format="PNG", optimize=True
        )
        width = image.width
    what = "The teacher\u2019s attention over time, with the path of the durations, and the mel"
    description = (
        f"{what if attention is not None else 'The mel'} spectrogram with the boundaries of "
        f"{len(label.tokens)} symbols, {len(label.mel) * FRAME_SECONDS:.2f} seconds"
    )
    return Picture(data_uri("image/png", reduced.getvalue()), width, description)


def _pictures_note(respoken: bool, lacking: int, follows_recordings: bool) -> str:
    if not respoken:
        why = "these labels follow recordings" if follows_recordings else "it was not at hand"
        return (
            "Each is shown as its mel, with a line at each boundary between symbols; the "
            f"teacher\u2019s attention is not drawn, because {why}."
        )
    note = (
        "In the teacher\u2019s attention time goes to the right and the text upwards, and the "
        "bright line is the path that gives the durations. The mel below has a line at each "
        "boundary between symbols."
    )
    if lacking:
        note += (
            f" For {lacking} of them the attention is missing: here the teacher did not speak as "
            "it did for the label, as happens on another device."
        )
    return note


def _follows_recordings(labelling: Mapping[str, Any]) -> bool:
    return labelling.get("mode", "inference") == "forced"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lightspeech.label_report",
        description="Writes the report of a label store: STORE/report.html and STORE/report.json.",
        formatter_class=cli.HelpFormatter,
    )
    parser.add_argument("store", metavar="STORE", type=Path, help="folder of the labels")
    parser.add_argument(
        "--teacher",
        metavar="CHECKPOINT",
        default="auto",
        help="the teacher that made the labels, which says the worst again for their alignment "
        "plots; auto finds it in tacotron2/pretrained, none does without",
    )
    cli.add_device_option(parser)
    args = parser.parse_args()
    identity = read_whole(args.store).identity
    respeak = None
    follows_recordings = _follows_recordings(identity.labelling)
    if follows_recordings:
        print("no attention is drawn: these labels follow recordings", file=sys.stderr)
    elif (checkpoint := find_checkpoint(args.teacher, identity.teacher_sha256)) is not None:
        teacher = load_tacotron2(checkpoint, cli.resolve_device(args.device))
        respeak = TeacherAttention(teacher, identity.labelling)
    elif args.teacher == "auto":
        print(
            f"no attention is drawn: the teacher {identity.teacher} is not at hand; "
            "name its file with --teacher",
            file=sys.stderr,
        )
    scores = scores_under(forced_limits()) if follows_recordings else SCORES
    print(f"report: {write_report(args.store, None, respeak, scores=scores)}")


if __name__ == "__main__":
    cli.run(main)
