"""Strict JSON (RFC 8259): limited size and depth, numbers that 64 bits hold.

Python's parser also takes NaN, 1e999 and integers of thousands of digits, which no JSON answer and
no database column can carry. It holds the interpreter's lock until it is done, so a thread of its
own does not help: what would keep it busy is counted before it begins. Limits: `MAX_DEPTH`,
`MAX_TOKENS`, `MAX_ESCAPES`, `MAX_DIGITS`.
"""

import json
import math
from typing import Any

MAX_DEPTH = 64
MAX_TOKENS = 50_000
"""Brackets, braces and commas, those within text included. An upload of 10,000 parts has 40,000."""

MAX_ESCAPES = 1_000_000
"""Backslashes. A photo of 20 MB has 420,000 in the base64 of encoders that write a slash as \\/."""

MAX_DIGITS = 400
"""Characters of a number; a double written without exponent has up to 309 before its point."""

INTEGERS = range(-(2**63), 2**64)


class InvalidJson(ValueError):
    """Valid JSON for Python, but beyond the limits. The text is a clause without full stop."""


def loads(data: bytes | bytearray | str) -> Any:
    """The value of a JSON text. Raises `ValueError`: `json.JSONDecodeError` or `InvalidJson`."""
    if _count(data, "[", "{", ",") > MAX_TOKENS or _count(data, "\\") > MAX_ESCAPES:
        raise InvalidJson("it has too many parts")
    try:
        value = json.loads(
            data, parse_float=_float, parse_int=_integer, parse_constant=_reject_constant
        )
    except RecursionError:
        raise InvalidJson("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise InvalidJson("it is not UTF-8") from None  # that error holds the whole body
    if _depth_exceeds(value, MAX_DEPTH):
        raise InvalidJson("it is nested too deeply")
    return value


def _count(data: bytes | bytearray | str, *marks: str) -> int:
    if isinstance(data, str):
        return sum(data.count(mark) for mark in marks)
    return sum(data.count(mark.encode()) for mark in marks)


def _float(text: str) -> float:
    number = float(text) if len(text) <= MAX_DIGITS else math.inf
    if not math.isfinite(number):
        raise InvalidJson(f"the number {_short(text)} is too large")
    return number


def _integer(text: str) -> int:
    number = int(text) if len(text) <= MAX_DIGITS else INTEGERS.stop
    if number not in INTEGERS:
        raise InvalidJson(f"the number {_short(text)} is too large")
    return number


def _reject_constant(text: str) -> float:
    raise InvalidJson(f"{text} is no JSON")


def _short(text: str) -> str:
    return text if len(text) <= 20 else f"{text[:17]}..."


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True
