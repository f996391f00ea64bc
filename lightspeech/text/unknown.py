"""Characters that the voice will not speak: which ones, what they are called, where they were."""

from __future__ import annotations

import re
import unicodedata

from lightspeech.text.encode import brace_parts
from lightspeech.text.normalize import normalize, to_ascii
from lightspeech.text.symbols import SYMBOL_IDS, SYMBOLS

# Characters without a sound of their own, whose loss nobody hears: combining accents (the published
# cleaner drops composed ones too), and format characters such as soft hyphens and joiners.
_SILENT_CATEGORIES = ("Mn", "Me", "Cf")

# In ASCII without braces and dollars, `normalize` reads letters, digits and white space, and leaves
# every other character as it is, to be dropped if it has no symbol.
_PLAIN = re.compile(r"[^{$\x80-\U0010ffff]*")
_WITHOUT_SYMBOL = re.compile(
    f"[^\\s0-9{re.escape(''.join(symbol for symbol in SYMBOLS if len(symbol) == 1))}]"
)

_NAMELESS = {
    "Cc": "control character",
    "Cs": "lone surrogate, left by a broken conversion",
    "Co": "private-use character",
    "Cn": "unassigned character",
}


def unknown_characters(text: str) -> list[str]:
    """What `encode` drops from a text, in order, each once, as it stands in the text.

    These are characters that have no ASCII form (an emoji), or one with a part that the symbol
    table lacks (`%`, and a curly quotation mark, which is read as `"`). A dollar sign counts only
    where no amount follows it. A name between braces which is no ARPAbet phoneme is given as
    `{name}`.
    """
    if _PLAIN.fullmatch(text):  # most texts, ten times as fast
        return list(dict.fromkeys(_WITHOUT_SYMBOL.findall(text)))
    found: dict[str, None] = {}  # an ordered set
    for part, is_arpabet in brace_parts(text):
        if is_arpabet:
            names = part.split()
            found.update((f"{{{name}}}", None) for name in names if "@" + name not in SYMBOL_IDS)
            continue
        dropped = set(normalize(part)) - SYMBOL_IDS.keys()
        for character in dict.fromkeys(part):
            if character in dropped or (not character.isascii() and _is_lost(character, dropped)):
                found[character] = None
    return list(found)


def _is_lost(character: str, dropped: set[str]) -> bool:
    read_as = to_ascii(character).lower()
    if read_as or character.isspace():
        return not dropped.isdisjoint(read_as)
    return unicodedata.category(character) not in _SILENT_CATEGORIES


def describe_character(character: str) -> str:
    """Code point, name and, where it can be printed, the character: `U+20AC EURO SIGN '€'`.

    `{name}`, as `unknown_characters` gives it, is described as no phoneme.
    """
    if len(character) > 1:
        shown = character if character.isprintable() else ascii(character)[1:-1]
        return f"{shown}, which is not an ARPAbet phoneme"
    name = unicodedata.name(character, "") or _NAMELESS.get(
        unicodedata.category(character), "unnamed character"
    )
    shown = f" '{character}'" if character.isprintable() and not character.isspace() else ""
    return f"U+{ord(character):04X} {name}{shown}"


class UnknownCharacters:
    """Tallies, over one run, what is dropped from its texts, so that each is warned of once."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def add(self, text: str, where: str = "") -> list[str]:
        """Counts a text, and returns a warning for each character that no earlier text had.

        `where` says where the text stands, such as `corpus.txt:12`.
        """
        warnings = []
        for character in unknown_characters(text):
            if character not in self._texts:
                place = f"{where}: " if where else ""
                warnings.append(f"{place}not spoken: {describe_character(character)}")
            self._first.setdefault(character, where)
            self._texts[character] = self._texts.get(character, 0) + 1
        return warnings

    def summary(self) -> list[str]:
        """A line for each character, the commonest first; empty where nothing was dropped."""
        lines = []
        for character, texts in sorted(self._texts.items(), key=lambda item: -item[1]):
            count = "1 text" if texts == 1 else f"{texts:,} texts"
            first = f", first at {self._first[character]}" if self._first[character] else ""
            lines.append(f"not spoken, in {count}{first}: {describe_character(character)}")
        return lines
