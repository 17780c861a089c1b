"""Messages: every code has a sentence in each language, and each raise site has its values."""

import ast
import copy
import json
import pickle
import string
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic_core.core_schema import ErrorType

from svd_core import messages
from svd_core.errors import InvalidRequest, SvdError, subclasses_of
from svd_core.messages import (
    DEFAULT_LANGUAGE,
    LOCALES,
    REASONS,
    Message,
    both,
    catalogue,
    sections,
    validation_reason,
)
from tests.fakes.errors import english

ROOT = Path(__file__).parents[2]
ENGLISH = catalogue(DEFAULT_LANGUAGE)
LANGUAGES = sorted(path.stem for path in LOCALES.glob("*.toml"))
SOURCES = [*(ROOT / "svd_core").rglob("*.py"), ROOT / "app.py"]
NOT_ERRORS = {"note", "part", "reason"}


def placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def test_every_language_has_the_same_codes_with_the_same_values() -> None:
    assert LANGUAGES == ["de", "en"]
    for language in LANGUAGES:
        assert {
            (section, code): placeholders(text)
            for section, texts in sections(language).items()
            for code, text in texts.items()
        } == {
            (section, code): placeholders(text)
            for section, texts in sections(DEFAULT_LANGUAGE).items()
            for code, text in texts.items()
        }


def test_no_code_stands_in_two_sections() -> None:
    assert len(ENGLISH) == sum(map(len, sections(DEFAULT_LANGUAGE).values()))


def test_sections_are_classes_of_errors() -> None:
    from svd_core.cli import args, output, photos, streams  # noqa: F401 - which have some of their own

    names = {kind.__name__ for kind in subclasses_of(SvdError)}
    assert set(sections(DEFAULT_LANGUAGE)) <= names | NOT_ERRORS


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_end_and_have_no_loose_spaces(language: str) -> None:
    for section, texts in sections(language).items():
        for code, text in texts.items():
            assert text == " ".join(text.split()), code
            ends = (".", "}", "{reason}")
            assert section in NOT_ERRORS or text.endswith(ends), code


def calls(path: Path) -> Iterator[tuple[str, str, set[str], bool]]:
    """(class, code, names of its values, whether there may be more) of each message made there."""
    makers = {kind.__name__ for kind in subclasses_of(SvdError)} | {"Message"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(ast.Name(maker), [ast.Constant(str(code))], keywords) if maker in makers:
                names = {each.arg for each in keywords if each.arg is not None}
                more = any(each.arg is None for each in keywords)
                if maker != "ToolFailed":
                    yield maker, code, names, more


def test_every_message_has_its_values_where_it_is_made() -> None:
    from svd_core.cli import args, output, photos, streams  # noqa: F401

    wrong, count = [], 0
    for path in SOURCES:
        for maker, code, names, more in calls(path):
            count += 1
            place = f"{path.relative_to(ROOT)}: {maker} {code}"
            needed = placeholders(ENGLISH.get(code, ""))
            known = ENGLISH if maker == "Message" else sections(DEFAULT_LANGUAGE).get(maker, {})
            if code not in known:
                wrong.append(f"{place} is not in the catalogue")
            elif needed - names and not more:
                wrong.append(f"{place} lacks {needed - names}")
            elif names - needed - {"field"}:
                wrong.append(f"{place} has {names - needed} for nothing")
    assert count > 100
    assert wrong == []


def test_every_code_is_used() -> None:
    whole, begun = set(), set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Constant(str(text)):
                    whole.add(text)
                case ast.Call(ast.Name("Message"), [ast.JoinedStr([ast.Constant(str(start)), *_])]):
                    begun.add(start)
    assert [
        code for code in ENGLISH if code not in whole and not code.startswith(tuple(begun))
    ] == []


def test_a_message_reads_as_its_english_sentence() -> None:
    message = Message("image_too_small", width=20, height=30, least=32)
    assert message == "The photo is 20 x 30 pixels. Use one with at least 32 pixels on each side."
    assert json.loads(json.dumps(message)) == message


def test_a_message_is_the_same_in_another_language_with_its_values() -> None:
    reason = Message("memory_too_small_to_load", model="svd-xt")
    message = Message("demo_instead", reason=reason, model="svd-nano")
    assert message.render("de") == (
        "Der Speicher reicht nicht, um svd-xt zu laden. Schließen Sie andere Programme. "
        "Bis dahin läuft hier das kleine Demomodell svd-nano."
    )


@pytest.mark.parametrize("text", ["{value} {", "1.5 to 2.", "'", ""])
def test_values_are_copied_as_they_are(text: str) -> None:
    message = Message("model_failed", reason=text)
    assert message == f"The model failed: {text}"
    assert message.render("de") == f"Das Modell ist gescheitert: {text}"


def test_lists_are_joined_and_translated_one_by_one() -> None:
    parts = [Message("plan_offload", way="model"), Message("plan_one_frame")]
    plan = Message("plan", parts=parts)
    assert plan == "model offload, 1 frame decoded at once"
    assert plan.render("de") == "Auslagerung „model“, 1 Bild auf einmal dekodiert"


def test_an_unknown_language_reads_english() -> None:
    message = Message("cancelled")
    assert message.render("xx") == "Stopped."


def test_the_reader_chooses_the_names_of_parameters() -> None:
    message = Message(
        "guidance_falls",
        field="max_guidance_scale",
        other_field="min_guidance_scale",
        low=3.0,
        high=1.5,
    )
    assert message.render("en", str.upper) == (
        "MAX_GUIDANCE_SCALE (1.5) must not be lower than MIN_GUIDANCE_SCALE (3)."
    )


def test_a_code_without_a_sentence_is_a_fault_of_the_program() -> None:
    with pytest.raises(KeyError):
        Message("no_such_code")
    with pytest.raises(KeyError):
        Message("image_too_small", width=1)


@pytest.mark.parametrize(
    "message",
    [
        Message("chunked_decode"),
        Message("image_empty", formats=("JPEG", "PNG")),
        Message("both", first="plain", second=Message("compiling")),
        Message("guidance_falls", field="a", other_field="b", low=0.5, high=0.25),
    ],
    ids=lambda message: message.code,
)
def test_messages_survive_json_pickle_and_copies(message: Message) -> None:
    stored = json.loads(json.dumps(messages.to_json(message)))
    for made in (
        messages.from_json(stored),
        pickle.loads(pickle.dumps(message)),  # noqa: S301 - our own
        copy.deepcopy(message),
    ):
        assert isinstance(made, Message)
        assert (made, made.code) == (message, message.code)
        assert made.render("de") == message.render("de") != message


@pytest.mark.parametrize("stored", [None, "Plain text of an older version."])
def test_text_of_older_versions_stays(stored: str | None) -> None:
    assert messages.from_json(stored) == messages.to_json(stored) == stored


@pytest.mark.parametrize(
    "stored",
    [
        {"code": "from_the_future", "values": {}, "text": "Hello."},
        {"code": "image_too_small", "values": {"size": [1, 2]}, "text": "Hello."},
        {"code": "colours_shifted", "values": {"share": "half"}, "text": "Hello."},
    ],
)
def test_a_message_of_a_newer_version_keeps_its_text(stored: dict[str, object]) -> None:
    assert messages.from_json(stored) == "Hello."


def test_two_messages_become_one_as_far_as_they_are_there() -> None:
    first, second = Message("compiling"), Message("chunked_decode")
    joined = both(first, second)
    assert joined == f"{first} {second}"
    assert (both(None, second), both(first, None), both(None, None)) == (second, first, None)


CONTEXT = {"gt": 1, "ge": 1, "lt": 1.5, "le": 2, "expected": "'a', 'b' or 'c'", "example": "id:x"}


@pytest.mark.parametrize("kind", get_args(ErrorType))
def test_reasons_of_pydantic_are_in_the_language_of_the_reader(kind: str) -> None:
    reason = validation_reason(kind, CONTEXT)
    assert not english(reason.render("de"))
    assert reason.code == f"reason_{REASONS[kind]}" if kind in REASONS else "reason_other"


def test_a_validator_gives_its_own_reason() -> None:
    own = Message("reason_host_name")
    assert validation_reason("value_error", {"error": ValueError(own)}) is own
    assert validation_reason("value_error", {"error": ValueError("text")}).code == "reason_other"


def test_an_error_names_the_field_of_its_message() -> None:
    error = InvalidRequest("link_repeats_setting", field="fps")
    assert (error.field, error.code) == ("fps", "link_repeats_setting")
