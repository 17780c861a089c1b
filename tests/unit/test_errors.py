"""The tree of errors is drawn as it is, and each one is ready for a user and for HTTP."""

import pickle
import re
from http import HTTPStatus

import pytest

from svd_core import errors
from svd_core.errors import (
    Cancelled,
    GenerationFailed,
    InvalidImage,
    InvalidRecipe,
    InvalidRequest,
    InvalidUrl,
    OutOfMemory,
    SvdError,
    ToolFailed,
)


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
    error = InvalidRequest("link_repeats_setting", field="fps")
    assert str(error) == error.message == "The link has fps more than once. Remove all but one."
    assert (error.field, error.code) == ("fps", "link_repeats_setting")
    assert isinstance(error, SvdError)


def test_a_class_has_a_code_for_what_has_none_of_its_own() -> None:
    assert (SvdError.code, InvalidUrl.code, GenerationFailed.code) == (
        "svd_error", "invalid_url", "generation_failed",
    )  # fmt: skip


def test_pictures_and_recipes_name_their_field() -> None:
    assert InvalidImage("image_damaged").field == "image"
    assert InvalidRecipe("recipe_missing").field == "recipe"


def test_stopping_needs_no_words() -> None:
    assert Cancelled().code == "cancelled"
    assert Cancelled("request_cancelled").code == "request_cancelled"


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("link_repeats_setting", field="fps"),
        OutOfMemory("gpu_too_small_for_model", model="a", needed="2", free="1", device="GPU"),
        Cancelled(),
        ToolFailed("The sketch is wrong."),
    ],
    ids=lambda error: error.code,
)
def test_errors_survive_the_way_to_another_process(error: SvdError) -> None:
    back = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(back) is type(error)
    assert (str(back), back.args, vars(back)) == (str(error), error.args, vars(error))
    assert back.message.render("de") == error.message.render("de")
