"""Internationalization (i18n): the page's texts, and the core's messages with its labels.

`locales/page.toml` has the page's own texts. The browser translates texts of the first page load
(`client_text`, `i18n_bundle`). The server translates later ones into the language of the request
(`texts_for`). The core's messages have their own catalogues, see `messages`.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gradio as gr
from gradio.i18n import I18nData

from svd_core.messages import DEFAULT_LANGUAGE, Message

PREFIX = "svd_"
"""Prefix of keys in the browser, which has many of Gradio's own."""


@dataclass(frozen=True)
class Texts:
    """The page's texts in one language, by key. A call fills the placeholders of a text."""

    language: str
    sentences: Mapping[str, str]

    def __call__(self, key: str, **values: object) -> str:
        return self.sentences[key].format(**values)

    def message(self, text: str, *, labels: bool = True) -> str:
        """A message of the core, with the page's labels or the names of parameters.

        Text that is not a `Message` stays English.
        """
        label = self.label if labels else str
        return text.render(self.language, label) if isinstance(text, Message) else text

    def label(self, name: str) -> str:
        """The page's label of a parameter, in quotation marks; its name if it has no label."""
        label = self.sentences.get(name)
        return name if label is None else self("quoted", text=label)

    def number(self, value: float, digits: int = 1) -> str:
        """`value` with the language's decimal separator."""
        return f"{value:.{digits}f}".replace(".", self("decimal"))


@cache
def languages() -> Mapping[str, Texts]:
    """The texts of every language, by its code."""
    path = Path(__file__).with_name("locales") / "page.toml"
    table: dict[str, dict[str, str]] = tomllib.loads(path.read_text(encoding="utf-8"))
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
    """Marker that the browser replaces by a text, which must have no placeholders."""
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
