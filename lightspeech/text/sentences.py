"""Long text to pieces that a voice reads well, one at a time.

Paragraphs are separated by blank lines; a single line break is a space. Within a paragraph a piece
is a sentence: it ends at . ! ? ; and the closing quotes after them, but not at abbreviations,
initials, decimals, or ellipses in mid-sentence. Only a sentence that is too long is cut further: at
commas, colons and dashes where that is enough, else at spaces, and a single word that is too long
anywhere. No character but white space is ever lost or moved.
"""

from __future__ import annotations

import re
from itertools import pairwise

from lightspeech.errors import InputError
from lightspeech.text.encode import can_be_spoken
from lightspeech.text.normalize import normalize


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


# Abbreviations, without their last full stop. A title, or what leads on: never ends a sentence.
_LEADING_ON = _words(
    "mr mrs ms mx dr drs prof rev fr gen col lt sgt capt cmdr maj cpl pvt hon gov sen rep "
    "pres supt messrs mme mlle e.g i.e viz cf vs approx"
)
# Means its number where one follows it ("No. 5", "Jan. 3"), else it is an ordinary word.
_NUMBERED = _words(
    "no nos pp ch vol fig figs art sec para eq ref jan feb mar apr jun jul aug sep sept oct nov "
    "dec ca"
)
# May stand at the end of a sentence or before more of it; so may initials (J.) and U.S., p.m.
_AMBIGUOUS = _words(
    "jr sr esq inc ltd co corp bros etc al st ave blvd rd mt ft dept univ assn est ed eds ph.d"
)
# With a capital, these show that a new sentence begins after such an abbreviation.
_OPENING_WORDS = _words(
    "a after all although an and as at before both but by can did do each every few for from had "
    "has have he her here his how however i if in is it its let many more most my no not now of on "
    "once one only or our please she since so some still such that the their then there these "
    "they this those to today two until was we were what when where which while who why with yes "
    "yet you your"
)
_INITIALS = re.compile(r"[^\W\d_](\.[^\W\d_])*")  # J, U.S, p.m

_OPENERS = "\"'“‘«([「『（-—–"
_CLOSERS = "\"'”’»)]」』）"
_MARKS = ".!?;…。！？；"
_CLAUSE_MARKS = (*_MARKS, *",:，、：—–", "--")
_WORD = re.compile(r"[^\W_](?:[\w'’.-]*[^\W_])?\.?")
_PARAGRAPH_BREAK = re.compile(r"\n[^\S\n]*\n\s*|\u2029")
_BRACED_OR_WORD = re.compile(r"(?:\{[^{}]+\}|\S)+")
# Where a sentence may end or be cut although no space follows; not within what may be a number.
_INNER_BREAK = re.compile(
    rf"(?<=[—–。！？；，、：])(?=[^\s\d—–。！？；，、：{re.escape(_CLOSERS)}])"
)
_ENUMERATOR = re.compile(r"\(?(?:\d{1,3}|[ivx]{1,4}|[a-z])\.")


def split_sentences(text: str, max_characters: int = 200) -> list[str]:
    """Sentences in order, white space collapsed, each with something to say.

    A piece has at most `max_characters` characters, both as it is written and as it is read
    (`normalize` turns `1,999` into 20 characters). There are two exceptions: punctuation alone,
    or a stray brace, is attached to the piece before it, or after it at the start; and a character
    that reads longer than the limit stands alone. `{...}` is not cut unless it is too long itself.
    Where nothing can be spoken at all the list is empty.

    Raises InputError for a limit below 1.
    """
    if max_characters < 1:
        raise InputError(f"max_characters must be at least 1, not {max_characters}")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    pieces: list[str] = []
    for paragraph in _PARAGRAPH_BREAK.split(text):
        for sentence in _sentences(_atoms(paragraph)):
            whole = "".join(sentence).strip()
            fits = _size(whole) <= max_characters
            pieces += [whole] if fits else _cut(sentence, max_characters)
    return _attach_unspeakable(pieces)


def _atoms(paragraph: str) -> list[str]:
    """Words with the space after them, which is missing where a dash joins two of them."""
    atoms = []
    for word in _BRACED_OR_WORD.findall(paragraph):
        atoms += _INNER_BREAK.split(" ".join(word.split()))
        atoms[-1] += " "
    return atoms


def _sentences(atoms: list[str]) -> list[list[str]]:
    """Groups a paragraph's atoms into sentences."""
    # Where a paragraph starts with a capital, so do its sentences; else case says nothing.
    cased = (c for atom in atoms for c in atom if c.isupper() or c.islower())
    has_capitals = next(cased, "a").isupper()
    sentences: list[list[str]] = [[]]
    for i, atom in enumerate(atoms):
        sentences[-1].append(atom)
        # The word after: atoms of punctuation only (a dash, an emoji) do not count.
        following = next((m[0] for a in atoms[i + 1 : i + 4] if (m := _WORD.search(a))), "")
        if _ends_sentence(atom.strip(), following, has_capitals, len(sentences[-1]) == 1):
            sentences.append([])
    return [sentence for sentence in sentences if sentence]


def _ends_sentence(word: str, following: str, has_capitals: bool, is_first: bool) -> bool:
    unquoted = word.rstrip(_CLOSERS)
    stem = unquoted.rstrip(_MARKS)
    mark = unquoted[len(stem) :]
    if not mark:
        return False
    if ";" in mark or "；" in mark:
        return True
    if has_capitals and following[:1].islower():
        return False
    if ".." in mark or "…" in mark:
        # "Well... I see" and, without any capitals, "well... perhaps": the sentence goes on.
        return has_capitals and re.match(r"I\b", following) is None
    if mark != ".":
        return True
    # What is left is one full stop: it ends the sentence unless it belongs to an abbreviation.
    if is_first and _ENUMERATOR.fullmatch(word.lower()):
        return False
    abbreviation = stem.lstrip(_OPENERS).lower()
    if abbreviation in _LEADING_ON:
        return False
    if abbreviation in _NUMBERED:
        return not following[:1].isdigit()
    if abbreviation in _AMBIGUOUS or _INITIALS.fullmatch(abbreviation):
        return not following or following.lower() in _OPENING_WORDS
    return True


def _ends_clause(word: str) -> bool:
    return word == "-" or word.rstrip(_CLOSERS).endswith(_CLAUSE_MARKS)


def _size(piece: str) -> int:
    return max(len(piece), len(normalize(piece)))


def _cut(sentence: list[str], limit: int) -> list[str]:
    """A sentence that is too long, as pieces within the limit: words that alone are too long are
    cut anywhere, and the runs of words between them by `_cut_between_words`."""
    pieces: list[str] = []
    run: list[str] = []
    for atom in sentence:
        if _size(atom.strip()) <= limit:
            run.append(atom)
            continue
        pieces += _cut_between_words(run, limit)
        run = []
        word = atom.strip()
        while word:
            length = min(limit, len(word))
            while length > 1 and _size(word[:length]) > limit:
                length -= max(1, length // 8)
            pieces.append(word[:length].strip())
            word = word[length:].strip()
    return pieces + _cut_between_words(run, limit)


def _cut_between_words(atoms: list[str], limit: int) -> list[str]:
    """The best cuts, by dynamic programming over the places where a piece may end.

    In this order: the fewest cuts that are not at a clause's end, the fewest pieces, and pieces
    of even length (the smallest sum of squares).
    """
    sizes = [_size(atom.strip()) for atom in atoms]
    spaces = [len(atom) - len(atom.strip()) for atom in atoms]
    # best[i]: cost of the first i atoms, and where their last piece starts
    best: list[tuple[tuple[int, int, int], int]] = [((0, 0, 0), 0)]
    for end in range(1, len(atoms) + 1):
        inside_clause = end < len(atoms) and not _ends_clause(atoms[end - 1].strip())
        choices = []
        size = 0
        for start in range(end - 1, -1, -1):
            # The sizes of words add up: no step of `normalize` looks across a space or a dash.
            size += sizes[start] + (spaces[start] if start < end - 1 else 0)
            if size > limit:
                break
            cuts, pieces, squares = best[start][0]
            choices.append(((cuts + inside_clause, pieces + 1, squares + size * size), start))
        best.append(min(choices))
    ends = [len(atoms)]
    while ends[-1] > 0:
        ends.append(best[ends[-1]][1])
    ends.reverse()
    return ["".join(atoms[start:end]).strip() for start, end in pairwise(ends)]


def _attach_unspeakable(pieces: list[str]) -> list[str]:
    """Joins a piece without anything to say to the one before it, or to the first one after."""
    attached: list[str] = []
    waiting = ""
    for piece in pieces:
        waiting = f"{waiting} {piece}" if waiting else piece
        # Only a closing brace changes what stands before it, so few joins need a second look.
        closes = "}" in waiting
        if can_be_spoken(waiting if closes else piece):
            attached.append(waiting)
            waiting = ""
        elif attached and (not closes or can_be_spoken(f"{attached[-1]} {waiting}")):
            attached[-1] += f" {waiting}"
            waiting = ""
    # A stray brace can swallow words before it. Then join more, until there is something to say.
    while waiting and attached:
        waiting = f"{attached.pop()} {waiting}"
        if can_be_spoken(waiting):
            attached.append(waiting)
            waiting = ""
    return attached
