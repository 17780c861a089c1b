"""Internationalization (i18n): the page's texts, and translation of the core's sentences.

`locales/page.toml` has the page's own texts. The browser translates what is on the page from the
beginning (`client_text`, `i18n_bundle`). The server translates what is said later, for the language
of the request (`texts_for`).

`locales/core.toml` has the core's sentences: errors, notes and notices. The core speaks English
alone, the same to page, API and command line. `translate` finds the template of a sentence and
fills that of the other language; a sentence without a template stays English.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gradio as gr
from gradio.i18n import I18nData

LOCALES = Path(__file__).with_name("locales")
DEFAULT_LANGUAGE = "en"

PREFIX = "svd_"
"""Prefix of keys in the browser, which has many of Gradio's own."""

MAX_LENGTH = 1000
"""Longest sentence that is translated; a longer one holds a library's own words."""

SENTENCE, CLAUSE = "sentence", "clause"
"""Placeholders for a sentence of the core, with and without its full stop."""

ONE_WORD = ("name", "count", "way")
"""Placeholders that match no spaces, so that they take in no more than they should."""

PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Texts:
    """The page's texts in one language, by key. A call fills the placeholders of one."""

    language: str
    sentences: Mapping[str, str]

    def __call__(self, key: str, **values: object) -> str:
        return self.sentences[key].format(**values)

    def number(self, value: float, digits: int = 1) -> str:
        """`value` with the language's decimal separator."""
        return f"{value:.{digits}f}".replace(".", self("decimal"))


@cache
def languages() -> Mapping[str, Texts]:
    """The texts of every language, by its code."""
    content = (LOCALES / "page.toml").read_text(encoding="utf-8")
    table: dict[str, dict[str, str]] = tomllib.loads(content)
    codes = {code for texts in table.values() for code in texts}
    return {
        code: Texts(code, {key: texts[code] for key, texts in table.items() if code in texts})
        for code in sorted(codes)
    }


def texts_for(request: gr.Request | None = None) -> Texts:
    """The texts in the browser's preferred language among those available."""
    header = "" if request is None else request.headers.get("accept-language") or ""
    for code in _accepted_languages(header):
        if code in languages():
            return languages()[code]
    return languages()[DEFAULT_LANGUAGE]


def _accepted_languages(header: str) -> list[str]:
    """Language codes of an `Accept-Language` header, the preferred one first."""
    entries = []
    for part in header.split(","):
        code, _, quality = part.strip().partition(";q=")
        try:
            entries.append((-float(quality or 1), code.partition("-")[0].lower()))
        except ValueError:
            continue
    return [code for _, code in sorted(entries, key=lambda entry: entry[0])]


def client_text(key: str) -> I18nData:
    """Marker of a text that the browser fills in when it shows the page, without placeholders."""
    assert "{" not in languages()[DEFAULT_LANGUAGE].sentences[key]
    return I18nData(PREFIX + key)


def i18n_bundle() -> gr.I18n:
    """The texts of `client_text` for browsers, an argument of `launch`."""
    return gr.I18n(
        **{
            code: {PREFIX + key: text for key, text in texts.sentences.items() if "{" not in text}
            for code, texts in languages().items()
        }
    )


def translate(sentence: str, t: Texts) -> str:
    """One or several sentences of the core in the language of `t`."""
    if t.language == DEFAULT_LANGUAGE or len(sentence) > MAX_LENGTH:
        return sentence
    return _translate("", sentence, t.language) or sentence


def translate_part(kind: str, text: str, t: Texts) -> str:
    """A few words of the core, of the placeholder `kind`, in the language of `t`."""
    return text if t.language == DEFAULT_LANGUAGE else _translate_value(kind, text, t.language)


@dataclass(frozen=True)
class Template:
    """Sentence of the core, or part of one, with placeholders.

    `texts`: by language. `kind`: placeholder that it fills; empty for a whole sentence.
    """

    texts: Mapping[str, str]
    kind: str = ""

    @property
    def weight(self) -> int:
        """Number of fixed characters: of two templates that match, the one with more is meant."""
        return len(PLACEHOLDER.sub("", self.texts[DEFAULT_LANGUAGE]))

    def match(self, text: str) -> dict[str, str] | None:
        """The values of the placeholders, if `text` is made from this template."""
        match = _pattern(self.texts[DEFAULT_LANGUAGE]).fullmatch(text)
        return None if match is None else match.groupdict()


@cache
def templates() -> Mapping[str, Sequence[Template]]:
    """Templates by their kind, those with the most fixed characters first."""
    table = tomllib.loads((LOCALES / "core.toml").read_text(encoding="utf-8"))
    by_kind: dict[str, list[Template]] = {}
    for entry in (*table["sentence"], *table["part"]):
        kind = entry.pop("of", "")
        by_kind.setdefault(kind, []).append(Template(entry, kind))
    return {
        kind: sorted(group, key=lambda template: -template.weight)
        for kind, group in by_kind.items()
    }


def _translate(kind: str, text: str, language: str) -> str | None:
    """`text` in `language`; None without a template.

    Several sentences are split first, or a placeholder of the first would take in the others.
    """
    for end in re.finditer(r"\. ", text) if kind == "" else ():
        head = _fill_template("", text[: end.start() + 1], language)
        tail = head and _translate("", text[end.end() :], language)
        if tail:
            return f"{head} {tail}"
    return _fill_template(kind, text, language)


def _fill_template(kind: str, text: str, language: str) -> str | None:
    for template in templates().get(kind, ()):
        if language in template.texts and (values := template.match(text)) is not None:
            translated = {
                name: _translate_value(name, value, language) for name, value in values.items()
            }
            return template.texts[language].format(**translated)
    return None


def _translate_value(name: str, value: str, language: str) -> str:
    """The value of a placeholder called `name`."""
    kind = name.rstrip("0123456789")
    if kind == SENTENCE:
        return _translate("", value, language) or value
    translated = _fill_template(kind, value, language)
    if translated is None and kind == CLAUSE:
        translated = (_translate("", f"{value}.", language) or f"{value}.")[:-1]
    return translated or value


@cache
def _pattern(template: str) -> re.Pattern[str]:
    pieces = PLACEHOLDER.split(template)
    for index, piece in enumerate(pieces):
        value = r"\S+?" if piece in ONE_WORD else ".+?"
        pieces[index] = f"(?P<{piece}>{value})" if index % 2 else re.escape(piece)
    return re.compile("".join(pieces), re.DOTALL)
