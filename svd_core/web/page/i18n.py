"""Internationalization: the page's texts in the visitor's language, from `texts.toml`.

What is on the page from the beginning is translated by the browser (`client_text`, `i18n_bundle`),
what is said later by the server, for the language that the request asks for (`texts_for`)."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gradio as gr
from gradio.i18n import I18nData

FILE = Path(__file__).with_name("texts.toml")
DEFAULT_LANGUAGE = "en"

PREFIX = "svd_"
"""Of keys in the browser, which knows many of Gradio's own."""


@dataclass(frozen=True)
class Texts:
    """The sentences in one language, by key; called with what belongs in their {places}."""

    language: str
    sentences: Mapping[str, str]

    def __call__(self, key: str, **values: object) -> str:
        return self.sentences[key].format(**values)

    def number(self, value: float, digits: int = 1) -> str:
        return f"{value:.{digits}f}".replace(".", self("decimal"))


@cache
def languages() -> Mapping[str, Texts]:
    """Every language of the file, by its code."""
    table: dict[str, dict[str, str]] = tomllib.loads(FILE.read_text(encoding="utf-8"))
    codes = {code for said in table.values() for code in said}
    return {
        code: Texts(code, {key: said[code] for key, said in table.items() if code in said})
        for code in sorted(codes)
    }


def texts_for(request: gr.Request | None = None) -> Texts:
    """The language that a browser likes best of those that there are."""
    header = "" if request is None else request.headers.get("accept-language") or ""
    for code in _accepted_languages(header):
        if code in languages():
            return languages()[code]
    return languages()[DEFAULT_LANGUAGE]


def client_text(key: str) -> I18nData:
    """A sentence that the browser puts in when it shows the page. It has no {places}."""
    assert "{" not in languages()[DEFAULT_LANGUAGE].sentences[key]
    return I18nData(PREFIX + key)


def i18n_bundle() -> gr.I18n:
    """For `launch`, so that browsers know the texts of `client_text`."""
    return gr.I18n(
        **{
            code: {PREFIX + key: text for key, text in texts.sentences.items() if "{" not in text}
            for code, texts in languages().items()
        }
    )


def _accepted_languages(header: str) -> list[str]:
    """Language codes of an `Accept-Language` header, the most liked first."""
    found = []
    for part in header.split(","):
        code, _, quality = part.strip().partition(";q=")
        try:
            found.append((-float(quality or 1), code.partition("-")[0].lower()))
        except ValueError:
            continue
    return [code for _, code in sorted(found, key=lambda entry: entry[0])]
