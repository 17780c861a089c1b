"""What the core says, in the visitor's language: errors, notes and notices.

The core speaks English alone, the same to page, API and command line; `core.toml` has each of its
sentences with {places}. One that is not there stays as it is.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from svd_core.web.page.i18n import USUAL, Texts

FILE = Path(__file__).with_name("core.toml")

MOST = 1000
"""Characters that are looked at; a longer sentence holds some library's own words."""

SENTENCE, CLAUSE = "sentence", "clause"
"""Names of places that hold a sentence of the core's, with and without its full stop."""

ONE_WORD = ("name", "count", "way")
"""Names of places in which nothing has spaces, so that they take in no more than is theirs."""

PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Template:
    """`said`: by language; `of`: the kind of place it belongs in, none for a whole sentence."""

    said: Mapping[str, str]
    of: str = ""

    @property
    def weight(self) -> int:
        """How much of it is fixed: of two that fit, the one with more is meant."""
        return len(PLACE.sub("", self.said[USUAL]))

    def read(self, text: str) -> dict[str, str] | None:
        """What stands in the places, if `text` is made of this."""
        found = _pattern(self.said[USUAL]).fullmatch(text)
        return None if found is None else found.groupdict()


def core(sentence: str, say: Texts) -> str:
    """A sentence of the core's, or several, in the language of `say`."""
    if say.language == USUAL or len(sentence) > MOST:
        return sentence
    return _said("", sentence, say.language) or sentence


def core_part(of: str, text: str, say: Texts) -> str:
    """What the core says in a few words, for the kind of place `of`."""
    return text if say.language == USUAL else _value(of, text, say.language)


@cache
def templates() -> Mapping[str, Sequence[Template]]:
    """By the kind of place they belong in, those with the most fixed words first."""
    table = tomllib.loads(FILE.read_text(encoding="utf-8"))
    found: dict[str, list[Template]] = {}
    for entry in (*table["sentence"], *table["part"]):
        of = entry.pop("of", "")
        found.setdefault(of, []).append(Template(entry, of))
    return {of: sorted(those, key=lambda t: -t.weight) for of, those in found.items()}


def _said(of: str, text: str, language: str) -> str | None:
    """`text` in `language`; None for what is no template's. Several sentences are told apart
    first, or a place of the first one would take in the others."""
    for end in re.finditer(r"\. ", text) if of == "" else ():
        head = _filled("", text[: end.start() + 1], language)
        tail = head and _said("", text[end.end() :], language)
        if tail:
            return f"{head} {tail}"
    return _filled(of, text, language)


def _filled(of: str, text: str, language: str) -> str | None:
    for template in templates().get(of, ()):
        if language in template.said and (values := template.read(text)) is not None:
            told = {name: _value(name, value, language) for name, value in values.items()}
            return template.said[language].format(**told)
    return None


def _value(name: str, value: str, language: str) -> str:
    """What stands in a place called `name`."""
    of = name.rstrip("0123456789")
    if of == SENTENCE:
        return _said("", value, language) or value
    told = _filled(of, value, language)
    if told is None and of == CLAUSE:
        told = (_said("", f"{value}.", language) or f"{value}.")[:-1]
    return told or value


@cache
def _pattern(template: str) -> re.Pattern[str]:
    pieces = PLACE.split(template)
    for at, piece in enumerate(pieces):
        some = r"\S+?" if piece in ONE_WORD else ".+?"
        pieces[at] = f"(?P<{piece}>{some})" if at % 2 else re.escape(piece)
    return re.compile("".join(pieces), re.DOTALL)
