"""The page's sentences: complete in every language, and the browser's language is spoken."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from svd_core.web.page.i18n import DEFAULT_LANGUAGE, client_text, languages, texts_for

PAGE = Path(__file__).parents[2] / "svd_core" / "web" / "page"


def asked(header: str) -> Any:
    return SimpleNamespace(headers={"accept-language": header})


def test_every_sentence_is_there_in_every_language_with_the_same_places() -> None:
    usual = languages()[DEFAULT_LANGUAGE].sentences
    assert len(languages()) >= 2
    for texts in languages().values():
        assert set(texts.sentences) == set(usual)
        for key, sentence in texts.sentences.items():
            assert _places(sentence) == _places(usual[key]), key
            assert re.findall(r"</?\w+>", sentence) == re.findall(r"</?\w+>", usual[key]), key


def test_another_language_is_another_text() -> None:
    same = [
        key
        for key, sentence in languages()[DEFAULT_LANGUAGE].sentences.items()
        if languages()["de"].sentences[key] == sentence
    ]
    assert len(same) < len(languages()[DEFAULT_LANGUAGE].sentences) / 8


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("fr-FR,fr;q=0.9,de;q=0.5,en;q=0.6", "en"),
        ("pt, de;q=0.1", "de"),
        ("", "en"),
        ("*", "en"),
        ("de;q=lots, tlh", "en"),
        ("../../etc/passwd", "en"),
    ],
)
def test_the_browsers_language_is_spoken_where_it_is_known(header: str, language: str) -> None:
    assert texts_for(asked(header)).language == language


def test_programs_are_spoken_to_in_english() -> None:
    assert texts_for(None).language == "en"
    assert texts_for(SimpleNamespace(headers={})).language == "en"  # type: ignore[arg-type]


def test_numbers_follow_the_language() -> None:
    assert languages()["de"].number(1.25) == "1,2"
    assert languages()["en"].number(12.5, 0) == "12"


def test_a_sentence_with_places_cannot_be_left_to_the_browser() -> None:
    with pytest.raises(AssertionError):
        client_text("done")


def test_no_sentence_is_left_over_and_none_is_missing() -> None:
    """The code contains the keys literally, or builds them from the names they belong to."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in PAGE.glob("*.py"))
    named = set(re.findall(r"""\b(?:t|client_text)\(\s*"(\w+)\"""", code))
    known = set(languages()[DEFAULT_LANGUAGE].sentences)
    assert named <= known
    put_together = {key for key in known for start in STARTS if key.startswith(start)}
    mentioned = {key for key in known if f'"{key}"' in code or f"'{key}'" in code}
    assert known - named - put_together - mentioned - {f"{key}_hint" for key in mentioned} == set()


STARTS = (
    "stage_", "model_", "motion_", "fit_", "speed_", "shape_", "orientation_", "level_", "order_",
    "format_", "export_", "interpolation_",
)  # fmt: skip


def _places(sentence: str) -> set[str]:
    return set(_found(sentence))


def _found(sentence: str) -> Iterator[str]:
    yield from re.findall(r"\{(\w+)\}", sentence)
