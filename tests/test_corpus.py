"""The bundled text: fit to be spoken, varied, and never held out and trained on at once."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from data import coverage as measure
from data import held_out
from data.coverage import DATA
from data.held_out import find_held_out, plain
from lightspeech.errors import InputError
from lightspeech.text import Line, encode, is_speakable, read_lines, unknown_characters

CORPUS = (DATA / "corpus.txt").read_text(encoding="utf-8").splitlines()
HELDOUT = (DATA / "heldout.txt").read_text(encoding="utf-8").splitlines()

JUDGED = {"teachers": HELDOUT[:200], "students": HELDOUT}  # what each is judged on

FORMS = {  # pattern -> at least so many lines of the corpus, and whether heldout.txt[:20] has it
    "question": (r"\?", 100, True),
    "exclamation": (r"!", 50, True),
    "quotation": (r'"', 50, True),
    "list": (r"\w+, [\w' -]+, (and|or) ", 100, True),
    "number": (r"\d", 100, True),
    "ordinal": (r"\d(st|nd|rd|th)\b", 10, True),
    "year": (r"\b1[5-9]\d\d\b", 30, True),
    "time": (r"\b\d{1,2}:\d\d\b", 10, True),
    "money": (r"\$\d", 15, True),
    "abbreviation": (r"\b(Mr|Mrs|Dr|St|Co|Ltd|Rev|Capt|Lt|Col|Gen|Sgt|Maj)\.", 30, True),
    "contraction": (r"\w'(t|s|re|ve|ll|d|m)\b", 150, True),
    "hyphen": (r"\w-\w", 50, True),
    "semicolon": (r";", 50, False),
    "colon": (r": ", 50, False),
    "parenthesis": (r"\(.+\)", 10, False),
    "dash": (r"--", 4, False),
    "name": (r"\w [A-Z][a-z]+", 250, True),
}


def runs_of_words(text: str, length: int) -> set[str]:
    words = plain(text).split()
    return {" ".join(words[i : i + length]) for i in range(len(words) - length + 1)}


def test_sizes() -> None:
    assert len(CORPUS) >= 1_200
    assert len(HELDOUT) == 300


@pytest.mark.parametrize("lines", [CORPUS, HELDOUT], ids=["corpus", "heldout"])
def test_every_line_is_unique_tidy_and_can_be_spoken(lines: list[str]) -> None:
    said = Counter(plain(line) for line in lines)
    assert [text for text, count in said.items() if count > 1] == []
    for line in lines:
        assert 3 <= len(line) <= 200, line
        assert line == " ".join(line.split())
        assert not set(line) & set("{}[]|"), line  # ARPAbet and table columns mean something else
        assert is_speakable(encode(line)), line
        assert set(unknown_characters(line)) <= {'"'}, line
        assert len(encode(line)) <= 230, line  # numbers grow when spelt out


@pytest.mark.parametrize("name", ["corpus.txt", "heldout.txt"])
def test_the_files_read_without_a_problem(name: str) -> None:
    content = (DATA / name).read_text(encoding="utf-8")
    read = read_lines(DATA / name, max_characters=200)
    assert read.problems == []
    assert read.duplicates == 0
    assert [line.text for line in read.lines] == content.splitlines()
    assert content.endswith("\n")
    assert "\r" not in content


@pytest.mark.parametrize(
    ("lines", "run_length"), [(CORPUS, 6), (HELDOUT, 5)], ids=["corpus", "heldout"]
)
def test_no_two_sentences_of_a_file_are_nearly_the_same(lines: list[str], run_length: int) -> None:
    first_with: dict[str, str] = {}
    for line in lines:
        runs = runs_of_words(line, run_length)
        for run in runs:
            assert run not in first_with, f"{run!r} stands in both:\n{first_with[run]}\n{line}"
        first_with.update(dict.fromkeys(runs, line))


def test_held_out_sentences_are_not_in_the_corpus() -> None:
    assert not {plain(line) for line in HELDOUT} & {plain(line) for line in CORPUS}
    fives = set[str]().union(*(runs_of_words(line, 5) for line in CORPUS))
    fours = set[str]().union(*(runs_of_words(line, 4) for line in CORPUS))
    for line in HELDOUT:
        assert not runs_of_words(line, 5) & fives, line
        assert len(runs_of_words(line, 4) & fours) <= 1, line
    lines = [Line(f"l{i}", text, f"corpus.txt:{i}") for i, text in enumerate(CORPUS, start=1)]
    assert find_held_out(HELDOUT, lines) == []


@pytest.mark.parametrize("form", FORMS)
def test_forms_are_present(form: str) -> None:
    pattern, at_least, in_the_first_20 = FORMS[form]
    assert sum(bool(re.search(pattern, line)) for line in CORPUS) >= at_least
    if in_the_first_20:
        assert any(re.search(pattern, line) for line in HELDOUT[:20])
    for lines in JUDGED.values():
        assert sum(bool(re.search(pattern, line)) for line in lines) >= 2


def test_lengths_are_spread_out() -> None:
    assert sum(len(line.split()) <= 3 for line in CORPUS) >= 60
    assert sum(len(line) >= 150 for line in CORPUS) >= 60
    assert sum(20 <= len(line) <= 110 for line in CORPUS) >= 800
    assert any(len(line.split()) == 2 for line in HELDOUT[:20])
    assert any(len(line) > 130 for line in HELDOUT[:20])


@pytest.mark.parametrize("lines", JUDGED.values(), ids=JUDGED)
def test_lengths_of_what_models_are_judged_on_are_spread_out(lines: list[str]) -> None:
    def share(low: int, high: int) -> float:
        return sum(low <= len(line) <= high for line in lines) / len(lines)

    assert share(3, 20) >= 0.08
    assert share(21, 40) >= 0.12
    assert all(share(low, low + 19) >= 0.1 for low in (41, 61, 81, 101))
    assert share(121, 160) >= 0.10
    assert share(161, 200) >= 0.05
    assert sum(len(line.split()) == 1 for line in lines) >= 5
    assert min(map(len, lines)) == 3
    assert max(map(len, lines)) >= 195


@pytest.mark.parametrize("start", range(0, 300, 50))
def test_held_out_sentences_are_in_no_order_of_length(start: int) -> None:
    sample = HELDOUT[start : start + 50]
    assert sum(len(line) <= 40 for line in sample) >= 5
    assert sum(40 < len(line) <= 120 for line in sample) >= 15
    assert sum(len(line) > 120 for line in sample) >= 2


def test_the_first_hundred_lines_are_a_varied_sample() -> None:
    # `preprocess.py --limit 100` takes these.
    sample = CORPUS[:100]
    assert sum(len(line) < 40 for line in sample) >= 10
    assert sum(len(line) > 120 for line in sample) >= 5
    letters = measure.ngrams(measure.words(sample), 1)
    assert all(letters[letter] for letter in "abcdefghijklmnopqrstuvwxyz")


@pytest.mark.parametrize("letter", "abcdefghijklmnopqrstuvwxyz")
def test_every_letter_is_frequent_enough_everywhere_in_a_word(letter: str) -> None:
    words = [word for line in CORPUS for word in plain(line).split()]
    assert sum(word.startswith(letter) for word in words) >= 5
    assert sum(letter in word[1:-1] for word in words) >= 25
    assert sum(word.endswith(letter) for word in words) >= (1 if letter in "jqv" else 15)


def test_ngrams_by_hand() -> None:
    words = measure.words(["It's 2 o'clock: 'tis it!"])
    assert words == Counter(["it's", "two", "o'clock", "tis", "it"])
    assert measure.ngrams(Counter({"it": 2}), 1) == {"i": 2, "t": 2}
    assert measure.ngrams(Counter({"it": 2}), 2) == {" i": 2, "it": 2, "t ": 2}
    assert measure.ngrams(Counter({"a": 1, "it's": 1}), 3) == Counter(
        [" a ", " it", "it'", "t's", "'s "]
    )


def test_compare_by_hand() -> None:
    corpus, reference = Counter(a=5, b=1), Counter(a=6, b=3, c=1)
    row = measure.compare("letters", corpus, reference)
    assert row == measure.Coverage("letters", 3, 10, once=0.9, enough=0.6, types_once=2 / 3)
    assert "| letters | 10 (3 distinct) | 90.00% | 60.00% | 66.66% |" in measure.coverage_table(
        [row]
    )


def test_the_corpus_covers_itself(capsys: pytest.CaptureFixture[str]) -> None:
    measure.main([str(DATA / "corpus.txt")])
    printed = capsys.readouterr().out
    for unit in ("letters", "bigrams", "trigrams", "words"):
        cells = re.search(rf"^\| {unit} \|.*$", printed, re.MULTILINE)
        assert cells is not None
        assert cells.group().count("100.00%") == (3 if unit == "letters" else 2)  # once, types
    assert f"| sentences | {len(CORPUS):,} | {len(HELDOUT)} |" in printed


def test_a_missing_reference_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no text file at .*nowhere\.txt"):
        measure.main([str(tmp_path / "nowhere.txt")])


def test_the_readme_shows_these_tables() -> None:
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    assert measure.length_table({"corpus.txt": CORPUS, "heldout.txt": HELDOUT}) in readme
    assert measure.rare_letter_table(CORPUS) in readme
    assert f"{len(CORPUS):,} sentences" in readme


def test_coverage_of_ljspeech_is_high_and_in_the_readme(shared: Path) -> None:
    reference = measure.texts_of(shared / "data" / "ljspeech_transcripts.txt")
    letters, bigrams, trigrams, _ = rows = measure.coverage(CORPUS, reference)
    assert letters.enough == 1
    assert bigrams.once > 0.999
    assert trigrams.once > 0.99
    assert measure.coverage_table(rows) in (DATA / "README.md").read_text(encoding="utf-8")


def test_finds_held_out_sentences_by_hand() -> None:
    sentences = ["Dr. Li owns 2 owls.", "Who's next?", "Seven swans swam over the sea."]
    texts = [
        "Who's next?",  # 1: a short one, word for word
        "WHO'S NEXT",  # 2: without punctuation
        "Who's next in the queue?",  # 3: short ones are not looked for inside
        "And doctor Li owns two owls, she says.",  # 4: a longer one inside, spelt out
        "Seven swans swam over the seas.",  # 5: other words
        "Dr. Li owns 2 owls. Seven swans swam over the sea.",  # 6: two at once
    ]
    lines = [Line(f"l{i}", text, f"mine.txt:{i}") for i, text in enumerate(texts, start=1)]
    assert [(one.sentence, one.where) for one in find_held_out(sentences, lines)] == [
        ("Who's next?", "mine.txt:1"),
        ("Who's next?", "mine.txt:2"),
        ("Dr. Li owns 2 owls.", "mine.txt:4"),
        ("Dr. Li owns 2 owls.", "mine.txt:6"),
        ("Seven swans swam over the sea.", "mine.txt:6"),
    ]


def test_a_folder_that_was_trained_on_held_out_text_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "metadata.csv"
    table.write_text("a|Nothing of the kind.\nbad row\nc|Other words.\n", encoding="utf-8")
    held_out.main([str(tmp_path)])
    printed = capsys.readouterr()
    assert printed.out == "none of 300 held-out sentences stands in 2 lines\n"
    assert printed.err.startswith(f"not looked at: {table}:2: ")

    written = f"a|Nothing of the kind.\nb|{HELDOUT[2]}\nc|As read: 7.|{HELDOUT[0]}\n"
    table.write_text(written, encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        held_out.main([str(DATA / "corpus.txt"), str(tmp_path)])
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert f"{table}:2: {HELDOUT[2]}\n{table}:3: {HELDOUT[0]}\n" in printed.out
    assert f"2 of 300 held-out sentences stand in {len(CORPUS) + 3:,} lines" in printed.out


def test_a_folder_without_a_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no metadata\.csv in the folder .*; give a dataset"):
        held_out.main([str(tmp_path)])
