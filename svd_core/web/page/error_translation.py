"""Translation of the core's English sentences: errors, notes and notices.

The core speaks English alone, the same to page, API and command line; `core.toml` has each of its
sentences with {places}. One that is not there stays as it is.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from svd_core.web.page.i18n import DEFAULT_LANGUAGE, Texts

FILE = Path(__file__).with_name("core.toml")

MAX_LENGTH = 1000
"""Characters that are looked at; a longer sentence holds some library's own words."""

SENTENCE, CLAUSE = "sentence", "clause"
"""Names of places that hold a sentence of the core's, with and without its full stop."""

ONE_WORD = ("name", "count", "way")
"""Names of places in which nothing has spaces, so that they take in no more than is theirs."""

PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Template:
    """`texts`: by language. `kind`: kind of placeholder it fills; empty for a whole sentence."""

    texts: Mapping[str, str]
    kind: str = ""

    @property
    def weight(self) -> int:
        """How much of it is fixed: of two that fit, the one with more is meant."""
        return len(PLACEHOLDER.sub("", self.texts[DEFAULT_LANGUAGE]))

    def match(self, text: str) -> dict[str, str] | None:
        """What stands in the places, if `text` is made of this."""
        found = _pattern(self.texts[DEFAULT_LANGUAGE]).fullmatch(text)
        return None if found is None else found.groupdict()


def translate(sentence: str, t: Texts) -> str:
    """A sentence of the core's, or several, in the language of `say`."""
    if t.language == DEFAULT_LANGUAGE or len(sentence) > MAX_LENGTH:
        return sentence
    return _translate("", sentence, t.language) or sentence


def translate_part(of: str, text: str, t: Texts) -> str:
    """What the core says in a few words, for a placeholder of kind `of`."""
    return text if t.language == DEFAULT_LANGUAGE else _translate_value(of, text, t.language)


@cache
def templates() -> Mapping[str, Sequence[Template]]:
    """By the kind of place they belong in, those with the most fixed words first."""
    table = tomllib.loads(FILE.read_text(encoding="utf-8"))
    found: dict[str, list[Template]] = {}
    for entry in (*table["sentence"], *table["part"]):
        of = entry.pop("of", "")
        found.setdefault(of, []).append(Template(entry, of))
    return {of: sorted(those, key=lambda t: -t.weight) for of, those in found.items()}


def _translate(of: str, text: str, language: str) -> str | None:
    """`text` in `language`; None for what is no template's. Several sentences are told apart
    first, or a place of the first one would take in the others."""
    for end in re.finditer(r"\. ", text) if of == "" else ():
        head = _fill_template("", text[: end.start() + 1], language)
        tail = head and _translate("", text[end.end() :], language)
        if tail:
            return f"{head} {tail}"
    return _fill_template(of, text, language)


def _fill_template(of: str, text: str, language: str) -> str | None:
    for template in templates().get(of, ()):
        if language in template.texts and (values := template.match(text)) is not None:
            told = {name: _translate_value(name, value, language) for name, value in values.items()}
            return template.texts[language].format(**told)
    return None


def _translate_value(name: str, value: str, language: str) -> str:
    """What stands in a place called `name`."""
    of = name.rstrip("0123456789")
    if of == SENTENCE:
        return _translate("", value, language) or value
    told = _fill_template(of, value, language)
    if told is None and of == CLAUSE:
        told = (_translate("", f"{value}.", language) or f"{value}.")[:-1]
    return told or value


@cache
def _pattern(template: str) -> re.Pattern[str]:
    pieces = PLACEHOLDER.split(template)
    for at, piece in enumerate(pieces):
        some = r"\S+?" if piece in ONE_WORD else ".+?"
        pieces[at] = f"(?P<{piece}>{some})" if at % 2 else re.escape(piece)
    return re.compile("".join(pieces), re.DOTALL)
