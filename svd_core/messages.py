"""Messages: sentences with a stable code and values, from one catalogue for each language.

Invariant: a `Message` is its English sentence everywhere. Its code and values make the same
sentence in other languages; only the page chooses one.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

LOCALES = Path(__file__).with_name("locales")
DEFAULT_LANGUAGE = "en"

REASONS = {
    "missing": "missing", "missing_argument": "missing", "string_type": "text",
    "string_unicode": "text",
    "int_type": "whole_number", "int_parsing": "whole_number", "int_from_float": "whole_number",
    "int_parsing_size": "whole_number", "float_type": "number", "float_parsing": "number",
    "finite_number": "number", "bool_type": "boolean", "bool_parsing": "boolean",
    "model_attributes_type": "object", "list_type": "list", "greater_than": "above",
    "greater_than_equal": "at_least", "less_than": "below", "less_than_equal": "at_most",
    "literal_error": "choice", "string_pattern_mismatch": "form", "path_not_file": "file_missing",
    "string_too_short": "too_short", "string_too_long": "too_long", "too_short": "too_short",
    "too_long": "too_long", "extra_forbidden": "unknown", "unexpected_keyword_argument": "unknown",
    "url_too_long": "too_long", "url_scheme": "image_url", "image_load_error": "data_uri",
    "file_download_error": "upload_expired",
}  # fmt: skip
"""Reasons in the catalogues by the types of errors of pydantic and of the API."""

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
        """The sentence in `language`; in English if there is none. `label` names a parameter."""
        template = catalogue(language).get(self.code)
        return self if template is None else _fill(template, self.values, language, label)


def validation_reason(kind: str, context: Mapping[str, Any]) -> Message:
    """Why a value is refused. `kind`, `context`: type and context of pydantic's error.

    A `ValueError` of a validator may carry a `Message`, which is the reason then.
    """
    args = getattr(context.get("error"), "args", ())
    if args and isinstance(args[0], Message):
        return args[0]
    values = {name: each for name, each in context.items() if isinstance(each, str | int | float)}
    if "expected" in values:
        # pydantic's English list, such as "'a', 'b' or 'c'"
        values["expected"] = str(values["expected"]).replace(" or ", ", ").replace("'", "")
    try:
        return Message(f"reason_{REASONS[kind]}", **values)
    except KeyError:
        return Message("reason_other")


def both(first: str | None, second: str | None) -> str | None:
    """Two messages as one; either may be missing."""
    if first is None or second is None:
        return first or second
    return Message("both", first=first, second=second)


def to_json(value: Value | None) -> Any:
    """`value` as JSON; a `Message` with its code and values."""
    if isinstance(value, Message):
        return {"code": value.code, "values": values_to_json(value), "text": str(value)}
    return [to_json(each) for each in value] if isinstance(value, tuple | list) else value


def from_json(stored: Any) -> Any:
    """Undo `to_json`. A message that this version does not know stays as its text."""
    if isinstance(stored, list):
        return [from_json(each) for each in stored]
    if not isinstance(stored, dict):
        return stored
    return restore(stored["code"], stored["values"], stored["text"])


def restore(code: str, values: Mapping[str, Any], text: str) -> str:
    """The message of that code and those JSON values; `text` if this version does not know it."""
    try:
        return Message(code, **{name: from_json(value) for name, value in values.items()})
    except (KeyError, IndexError, TypeError, ValueError):
        return text


def values_to_json(text: str) -> dict[str, Any]:
    """The values of a `Message` as JSON; empty for other text."""
    values = text.values if isinstance(text, Message) else {}
    return {name: to_json(value) for name, value in values.items()}


def _fill(
    template: str, values: Mapping[str, Value], language: str, label: Callable[[str], str]
) -> str:
    def show(name: str, value: Value) -> Any:
        if isinstance(value, Message):
            return value.render(language, label)
        if isinstance(value, str):
            return label(value) if name.endswith("field") else value
        return ", ".join(show("", each) for each in value) if isinstance(value, Sequence) else value

    return template.format(**{name: show(name, value) for name, value in values.items()})
