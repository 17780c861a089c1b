"""The tree of errors is drawn as it is, and each one is ready for a user and for HTTP."""

import re
from http import HTTPStatus

import pytest

from svd_core import errors
from svd_core.errors import Cancelled, InvalidImage, InvalidRecipe, InvalidRequest, SvdError


def tree(kind: type[SvdError] = SvdError, parent: str = "") -> dict[str, tuple[int, str]]:
    """Name -> (status, parent)."""
    found = {kind.__name__: (kind.status, parent)}
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            found |= tree(child, kind.__name__)
    return found


def drawn() -> dict[str, tuple[int, str]]:
    """The same, read from the drawing at the head of the module."""
    found, above = {}, {-1: ""}
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"    ([│├└─ ]*)(\w+) +(\d{3})  ", line):
            depth = len(match[1]) // 4
            above[depth] = match[2]
            found[match[2]] = (int(match[3]), above[depth - 1])
    return found


def test_the_drawing_is_true() -> None:
    assert drawn() == tree()


@pytest.mark.parametrize("status", sorted({status for status, _ in tree().values()} - {499}))
def test_statuses_are_those_of_http(status: int) -> None:
    """All but 499, which servers agreed on without the standard: the client is gone."""
    assert HTTPStatus(status) >= 400


def test_the_text_is_the_message() -> None:
    error = InvalidRequest("fps", "fps must be lower.")
    assert (str(error), error.message, error.field) == ("fps must be lower.",) * 2 + ("fps",)
    assert isinstance(error, SvdError)


def test_pictures_and_recipes_name_their_field() -> None:
    assert InvalidImage("No.").field == "image"
    assert InvalidRecipe("No.").field == "recipe"


def test_stopping_needs_no_words() -> None:
    assert Cancelled().message.endswith(".")
    assert Cancelled("Enough.").message == "Enough."
