"""The teacher's reading of text, against reference output and hand-written tables."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightspeech.errors import InputError
from lightspeech.text import (
    SYMBOLS,
    UnknownCharacters,
    decode,
    describe_character,
    encode,
    encode_sentence,
    is_speakable,
    normalize,
    unknown_characters,
)

ROOT = Path(__file__).parent.parent
GOLDEN = json.loads((ROOT / "tests" / "fixtures" / "text.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("item", GOLDEN, ids=[item["text"][:30] for item in GOLDEN])
def test_reads_as_the_reference_does(item: dict) -> None:
    assert normalize(item["text"]) == item["cleaned"]
    assert encode(item["text"]) == item["ids"]


def test_reads_ljspeech_as_the_reference_does(shared: Path) -> None:
    items = json.loads((shared / "golden" / "text_ljspeech.json").read_text(encoding="utf-8"))
    assert len(items) == 40
    for item in items:
        assert (normalize(item["text"]), encode(item["text"])) == (item["cleaned"], item["ids"])


def test_symbol_table() -> None:
    assert len(SYMBOLS) == len(set(SYMBOLS)) == 148
    assert "".join(SYMBOLS[:12]) == "_-!'(),.:;? "
    assert (SYMBOLS[12], SYMBOLS[37], SYMBOLS[38], SYMBOLS[63]) == ("A", "Z", "a", "z")
    assert (SYMBOLS[64], SYMBOLS[65], SYMBOLS[106], SYMBOLS[147]) == ("@AA", "@AA0", "@HH", "@ZH")
    assert all(symbol.startswith("@") for symbol in SYMBOLS[64:])


@pytest.mark.parametrize(
    ("text", "read_as"),
    [
        # numbers
        ("0, 7 and 42", "zero, seven and forty-two"),
        ("115", "one hundred fifteen"),
        ("1000", "one thousand"),
        ("3000", "three thousand"),
        ("1,234,567", "one million, two hundred thirty-four thousand, five hundred sixty-seven"),
        ("007", "seven"),
        ("3.05", "three point five"),
        ("1.5.2", "one point five.two"),
        # years
        ("1066", "ten sixty-six"),
        ("1905", "nineteen oh five"),
        ("1800", "eighteen hundred"),
        ("2000", "two thousand"),
        ("2008", "two thousand eight"),
        ("2024", "twenty twenty-four"),
        ("1,999", "nineteen ninety-nine"),
        # money
        ("$1", "one dollar"),
        ("$2.01", "two dollars, one cent"),
        ("$.50", "fifty cents"),
        ("$0.00", "zero dollars"),
        ("$1,200", "twelve hundred dollars"),
        ("$1.2.3", "one point two.three dollars"),
        ("€5", "eurfive"),
        # ordinals and dates
        ("1st 2nd 3rd 4th", "first second third fourth"),
        ("12th 20th 33rd", "twelfth twentieth thirty-third"),
        ("May 31st, 1997", "may thirty-first, nineteen ninety-seven"),
        # abbreviations
        ("MR. and Mrs. X", "mister and misess x"),
        ("Dr and Mr", "dr and mr"),
        ("st.co. co.st.", "saintco. companysaint"),
        ("first.", "first."),
        # everything else
        ("a\u00a0b\r\n\tc", "a b c"),
        ("Ångström’s “straße”", 'angstrom\'s "strasse"'),
        ("", ""),
    ],
)
def test_reads_a_table_of_texts(text: str, read_as: str) -> None:
    assert normalize(text) == read_as


def test_numbers_without_a_name_are_read_digit_by_digit() -> None:
    assert normalize("1" * 37) == " ".join(["one"] * 37)
    assert normalize("2" * 37 + "nd") == " ".join(["two"] * 36 + ["second"])
    assert len(normalize("9" * 6000).split()) == 6000  # more digits than int() takes
    assert normalize("1" + "0" * 35).startswith("one hundred decillion")


@pytest.mark.parametrize("text", ["$,5", "$1,.5", "$,,1", "$..7", "$" + "1" * 5000 + ".5"])
def test_amounts_that_nobody_writes_are_read_on(text: str) -> None:
    assert normalize(text).endswith(("dollars", "cents"))


def test_braces_hold_arpabet() -> None:
    assert decode(encode("{HH AH0  L\tOW1}!")) == ["@HH", "@AH0", "@L", "@OW1", "!"]
    assert decode(encode("a{B}c{D}")) == ["a", "@B", "c", "@D"]
    assert encode("{hh nonsense}") == []
    assert encode("{HH") == encode("HH")
    assert encode("{}") == encode("") == []
    assert decode(encode("{} x}y")) == ["y"]  # braces need something between them
    # The published code lost what follows; a line break is only white space.
    assert decode(encode("{HH}\nb")) == ["@HH", " ", "b"]


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("b", "b."),
        ("Hello there", "hello there."),
        ("Turn to page 5", "turn to page five."),
        ("Mrs Oak St", "mrs oak st."),  # read before the stop comes, so it is no abbreviation
        ("Say {HH AY1}", "say {HH AY1}."),
        ("Stop!", "stop!"),
        ("and so on,", "and so on,"),
        ("(see above)", "(see above)"),
        ("...", "..."),
        ("", ""),
    ],
)
def test_a_sentence_that_just_ends_gets_a_full_stop(text: str, spoken: str) -> None:
    expected = encode(spoken) if "st." not in spoken else [*encode("mrs oak st"), *encode(".")]
    assert encode_sentence(text) == expected


def test_odd_characters_never_raise_and_stay_in_the_table() -> None:
    random_source = random.Random(5)
    alphabet = [
        *"aZ 09.,$£%{}_~-'\"\n\t\r\0\x07\x1b\x7f",
        *"\x85\u00a0\u00ad\u200b\u200d\u202e\u2028\ufeff\ufffd\ue000\ufe0f\u0301",
        *"é中文שלוםسلامन्ीक१٣½①ﬁİß€…—“”😀🇬🇧👩",
        "\ud83d",
        "\udc80",
        "\U0010ffff",
        "1st",
        "Mr.",
        "{HH AH0}",
    ]
    for _ in range(3000):
        text = "".join(random_source.choices(alphabet, k=random_source.randrange(12)))
        ids = encode(text)
        assert all(0 <= symbol_id < 148 for symbol_id in ids), repr(text)
        assert normalize(text).isascii()
        for character in unknown_characters(text):
            assert describe_character(character).isprintable()


def test_decode_refuses_other_ids() -> None:
    with pytest.raises(InputError, match="symbol id 148: expected 0 to 147"):
        decode([38, 148])
    with pytest.raises(InputError, match="symbol id -1"):
        decode([-1])


@pytest.mark.parametrize(
    ("text", "speakable"),
    [("a", True), ("{HH}", True), ("7", True), ("中", True), ("€", True), ("", False)]
    + [(text, False) for text in (" ", "?!...", "_", "😀", "%", "{nothing}", "\0")],
)
def test_is_speakable(text: str, speakable: bool) -> None:
    assert is_speakable(encode(text)) is speakable


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("Plain text, isn't it? (Yes): 100.", []),
        ("50% & 20%", ["%", "&"]),
        ('“Well,” "he" said', ["“", "”", '"']),
        ("$5 and £7 and €9", []),  # dollars in words; ps and eur, as the teacher read them
        ("$5 and $", ["$"]),
        ("½", ["½"]),  # read as 1/2, and the table has no slash
        ("Hi 😀\u200d👍\ufe0f", ["😀", "👍"]),
        ("e\u0301 and so\u00adft", []),  # nobody hears a combining accent or a soft hyphen
        ("a\x07b\ud800c\ue000", ["\x07", "\ud800", "\ue000"]),
        ("{HH} {HX Q1}", ["{HX}", "{Q1}"]),
        ("{HH", ["{"]),
        ("a~b_c", ["~"]),
        ("café naïve 中文", []),
    ],
)
def test_unknown_characters_are_those_that_are_not_heard(text: str, unknown: list[str]) -> None:
    assert unknown_characters(text) == unknown


def test_every_dropped_ascii_character_is_reported() -> None:
    for code in range(128):
        character = chr(code)
        if encode(f"x{character}x") == encode("xx") and character != "$":
            assert unknown_characters(f"x{character}x") == [character]


@pytest.mark.parametrize(
    ("character", "description"),
    [
        ("€", "U+20AC EURO SIGN '€'"),
        ("%", "U+0025 PERCENT SIGN '%'"),
        ("😀", "U+1F600 GRINNING FACE '😀'"),
        ("\x07", "U+0007 control character"),
        ("\ud800", "U+D800 lone surrogate, left by a broken conversion"),
        ("\ue000", "U+E000 private-use character"),
        ("\u0378", "U+0378 unassigned character"),
        ("\u202e", "U+202E RIGHT-TO-LEFT OVERRIDE"),
        ("{QQ}", "{QQ}, which is not an ARPAbet phoneme"),
        ("{\ud83d}", r"{\ud83d}, which is not an ARPAbet phoneme"),
    ],
)
def test_describe_character(character: str, description: str) -> None:
    assert describe_character(character) == description


def test_unknown_characters_are_warned_of_once_and_summed_up() -> None:
    unknown = UnknownCharacters()
    assert unknown.add("5% % off", "a.txt:1") == ["a.txt:1: not spoken: U+0025 PERCENT SIGN '%'"]
    assert unknown.add("fine", "a.txt:2") == []
    assert unknown.add("& 5%", "a.txt:3") == ["a.txt:3: not spoken: U+0026 AMPERSAND '&'"]
    assert unknown.add("@") == ["not spoken: U+0040 COMMERCIAL AT '@'"]
    assert unknown.summary() == [
        "not spoken, in 2 texts, first at a.txt:1: U+0025 PERCENT SIGN '%'",
        "not spoken, in 1 text, first at a.txt:3: U+0026 AMPERSAND '&'",
        "not spoken, in 1 text: U+0040 COMMERCIAL AT '@'",
    ]
    assert UnknownCharacters().summary() == []


def test_import_needs_neither_torch_nor_inflect() -> None:
    program = (
        "import sys; from lightspeech.text import encode; encode('No number.');"
        "print(sorted({'torch', 'numpy', 'inflect', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"\[\]\s*", done.stdout)


@pytest.mark.parametrize(
    ("text", "read_as"), [("2999", "twenty-nine ninety-nine"), ("1001", "ten oh one")]
)
def test_edges_of_years(text: str, read_as: str) -> None:
    assert normalize(text) == read_as
