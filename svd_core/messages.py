"""Messages: sentences with a stable code and values, from one catalogue for each language.

Invariant: a `Message` reads as its English sentence everywhere. Its code and values make the same
sentence in any other language, which only the edge that shows it chooses.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

LOCALES = Path(__file__).with_name("locales")
DEFAULT_LANGUAGE = "en"

Value = str | int | float | Sequence[str]
"""A number or text, which may be another `Message`; a sequence is a list of texts."""


@cache
def sections(language: str) -> Mapping[str, Mapping[str, str]]:
    """Templates by their code, in sections: the class of an error, or the kind of the others."""
    path = LOCALES / f"{language}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


@cache
def catalogue(language: str) -> Mapping[str, str]:
    """All templates of a language by their code; none for an unknown language."""
    return {code: text for each in sections(language).values() for code, text in each.items()}


class Message(str):
    """A sentence, or part of one, in English. `code`: its key in the catalogues, with `values`.

    Raises `KeyError` for an unknown code, and for a missing value.
    """

    code: str
    values: Mapping[str, Value]

    def __new__(cls, code: str, /, **values: Value) -> "Message":
        text = _fill(catalogue(DEFAULT_LANGUAGE)[code], values, DEFAULT_LANGUAGE, str)
        message = super().__new__(cls, text)
        message.code, message.values = code, values
        return message

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Value]]:
        return (self.code,), dict(self.values)

    def render(self, language: str, label: Callable[[str], str] = str) -> str:
        """The sentence in `language`, or in English if that has none.

        `label`: what the reader calls a parameter.
        """
        template = catalogue(language).get(self.code)
        return self if template is None else _fill(template, self.values, language, label)


def both(first: str | None, second: str | None) -> str | None:
    """Two messages as one, as far as they are there."""
    if first is None or second is None:
        return first or second
    return Message("both", first=first, second=second)


def to_json(value: Value | None) -> Any:
    """`value` as JSON; a `Message` with its code and values."""
    if isinstance(value, Message):
        return {"code": value.code, "values": values_to_json(value), "text": str(value)}
    return [to_json(each) for each in value] if isinstance(value, tuple | list) else value


def from_json(stored: Any) -> Any:
    """What `to_json` got. A `Message` of another version keeps its text if it is unknown here."""
    if isinstance(stored, list):
        return [from_json(each) for each in stored]
    if not isinstance(stored, dict):
        return stored
    return restore(stored["code"], stored["values"], stored["text"])


def restore(code: str, values: Mapping[str, Any], text: str) -> str:
    """The message of that code and those values of JSON; `text` if it is unknown here."""
    try:
        return Message(code, **{name: from_json(value) for name, value in values.items()})
    except (KeyError, IndexError, TypeError, ValueError):
        return text


def values_to_json(text: str) -> dict[str, Any]:
    """The values of a `Message` as JSON; none for other text."""
    values = text.values if isinstance(text, Message) else {}
    return {name: to_json(value) for name, value in values.items()}


def _fill(
    template: str, values: Mapping[str, Value], language: str, label: Callable[[str], str]
) -> str:
    shown: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Message):
            shown[name] = value.render(language, label)
        elif isinstance(value, str):
            shown[name] = label(value) if name.endswith("field") else value
        elif isinstance(value, Sequence):
            texts = (each.render(language) if isinstance(each, Message) else each for each in value)
            shown[name] = ", ".join(texts)
        else:
            shown[name] = value
    return template.format(**shown)
