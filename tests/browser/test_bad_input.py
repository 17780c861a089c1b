"""Any file dropped on the page gets an answer beside it, and the page keeps working."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.media.recipe import FORMAT
from svd_core.media.video import write_mp4
from svd_core.params import VideoParams
from tests.browser.visiting import colourful, done, generate, newcomer, open_tab, shot, visitor
from tests.fakes.engines import Served, examples, serve
from tests.fakes.work import FakeWork, moving

GOOD: dict[str, Any] = {
    "format": FORMAT, "model": "svd-nano", "source": "svd-nano", "revision": "", "size": [512, 288],
    "fingerprint": "0" * 16, "params": VideoParams(seed=1, num_frames=14, num_inference_steps=1,
    min_guidance_scale=1, max_guidance_scale=1, decode_chunk_size=2).to_mapping(), "fit": "crop",
    "box": [0, 0, 1, 1], "image_sha256": "0" * 64, "notes": [], "versions": {}, "created": "",
    "continues": None,
}  # fmt: skip


def changed(**params: object) -> str:
    return json.dumps(GOOD | {"params": GOOD["params"] | params})


BAD = {
    "no recipe": ("", "has no recipe inside"),
    "a foreign comment": ("holiday 2025", "has no recipe inside"),
    "a version to come": (json.dumps(GOOD | {"format": FORMAT + 1}), "Update the program"),
    "a name that is markup": (json.dumps(GOOD | {"model": "<b>x</b>"}), "damaged or was edited"),
    "a path": (changed(motion_bucket_id="../../etc/passwd"), "damaged or was edited"),
    "a script": (changed(fit="<script>alert(1)</script>"), "damaged or was edited"),
    "a huge number": (changed(num_frames=10**30), "damaged or was edited"),
    "no number": (changed(fps=float("nan")), "damaged or was edited"),
    "an unknown setting": (changed(command="rm"), "damaged or was edited"),
    "endless brackets": ("{" + '"a":[' * 3000, "The recipe is damaged."),
}


@pytest.mark.slow
def test_videos_without_a_usable_recipe(page: Page, tmp_path: Path) -> None:
    open_tab(page, "recipe")
    said = page.locator("#recipe-said")
    for number, (comment, sentence) in enumerate(BAD.values()):
        path = write_mp4(moving(), tmp_path / f"{number}.mp4", 7, comment=comment)
        page.locator("#recipe-file input[type=file]").set_input_files(path)
        expect(said.get_by_role("alert")).to_contain_text(sentence)
        assert said.locator("script").count() == 0
        page.locator("#recipe-file").get_by_role("button", name=re.compile("Clear|Remove")).click()
        expect(said).to_have_text("")
    expect(page.get_by_role("slider", name="Motion")).to_have_value("127")


@pytest.mark.slow
def test_the_good_recipe_of_these_tests_is_good(page: Page, tmp_path: Path) -> None:
    """And one whose model does not run here says so."""
    recipe = json.dumps(GOOD | {"model": "other"})
    _drop(page, write_mp4(moving(), tmp_path / "video.mp4", 7, comment=recipe))
    expect(page.locator("#recipe-said")).to_contain_text("other, which isn’t available here")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("1")


@pytest.mark.slow
def test_what_is_no_video(page: Page, served: Served, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"just text")
    _drop(page, path)
    expect(page.locator("#recipe-said")).to_contain_text("cannot be read as a video")
    generate(page)
    done(page)


@pytest.mark.slow
def test_two_gigabytes(page: Page, tmp_path: Path) -> None:
    """They are not even sent."""
    path = tmp_path / "video.mp4"
    with path.open("wb") as file:
        file.truncate(2 * 2**30)
    open_tab(page, "recipe")
    page.locator("#photo").get_by_role("button", name="Remove photo").click()
    page.locator("#recipe-file input[type=file]").set_input_files(path)
    expect(page.locator("#recipe").get_by_role("alert")).to_contain_text("over the 20 MB limit")
    page.locator("#photos input[type=file], #photo input[type=file]").first.set_input_files(path)
    expect(page.locator("#photo-area").get_by_role("alert")).to_contain_text("over the 20 MB limit")
    page.locator("#photo input[type=file]").set_input_files(colourful(tmp_path))
    expect(page.locator("#photo-area").get_by_role("alert")).to_have_count(0)
    generate(page)
    done(page)


WRONG_NUMBERS = (
    ("seed", "4294967296", "“Seed” must be a whole number from 0 to 4294967295"),
    ("num_frames", "many", "“Frames” must be a whole number from 2 to 50"),
    ("max_guidance_scale", "-1", "“Guidance at the end” must be a number from 0 to 20"),
)


def test_a_wrong_number_is_said_beside_its_field(page: Page) -> None:
    page.get_by_label("New seed every time").uncheck()
    for field, value, sentence in WRONG_NUMBERS:
        box = page.locator(f"#{field}").get_by_role("textbox")
        box.fill(value)
        generate(page)
        expect(page.locator("#progress").get_by_role("alert")).to_contain_text(sentence)
        wrong = page.locator(f"#{field}.svd-wrong, .svd-wrong:has(#{field})")
        expect(wrong).to_contain_text(sentence)
        box.fill("7" if field == "seed" else "")
        generate(page)
        done(page)
        expect(page.locator(".svd-wrong")).to_have_count(0)


@pytest.mark.slow
def test_what_is_wrong_is_said_in_the_visitors_language(
    browser: Browser, served: Served, tmp_path: Path
) -> None:
    link = f"{served.url}/?motion_bucket_id=999"
    with visitor(browser, link, home=served.url, locale="de-DE") as page:
        said = page.locator("#link-said").get_by_role("alert")
        expect(said).to_contain_text("„Bewegung“ muss eine ganze Zahl von 1 bis 255 sein")
        page.locator("#num_frames").get_by_role("textbox").fill("1")
        page.get_by_role("button", name="Video erstellen").click()
        sentence = "„Bilder“ muss eine ganze Zahl von 2 bis 50 sein, nicht '1'."
        expect(page.locator("#progress").get_by_role("alert")).to_have_text(sentence)
        wrong = page.locator("#num_frames.svd-wrong, .svd-wrong:has(#num_frames)")
        expect(wrong).to_contain_text(sentence)
        path = write_mp4(moving(), tmp_path / "video.mp4", 7, comment=changed(fps=0))
        open_tab(page, "recipe")
        page.locator("#recipe-file input[type=file]").set_input_files(path)
        said = page.locator("#recipe-said").get_by_role("alert")
        expect(said).to_contain_text("verändert: fps ist ungültig")
        shot(page, "german-errors")


BROKEN_LINKS = (
    ("motion_bucket_id=999", "“Motion” must be a whole number from 1 to 255"),
    ("seed=1&seed=2", "The link has “Seed” more than once"),
    ("fit=<script>alert(1)</script>", "“Fit” must be one of crop, pad"),
    (f"fps={'9' * 5000}", "too long"),
)


@pytest.mark.parametrize(("query", "sentence"), BROKEN_LINKS)
def test_a_link_with_broken_settings(
    context: BrowserContext, served: Served, query: str, sentence: str
) -> None:
    with newcomer(context, f"{served.url}/?{query}", served.url) as page:
        expect(page.locator("#link-said").get_by_role("alert")).to_contain_text(sentence)
        generate(page)
        done(page)


TURBO = {"speed": "turbo", "num_inference_steps": 4}


@pytest.mark.slow
def test_a_link_to_a_speed_that_is_not_to_be_had(browser: Browser, served: Served) -> None:
    """The page says so at the link and beside the control, which keeps its default."""
    with visitor(browser, f"{served.url}/?{urlencode(TURBO)}", home=served.url) as page:
        expect(page.locator("#link-said")).to_contain_text("doesn’t have, so “Exact” is selected")
        _expect_exact(page)
        shot(page, "no-turbo")
        generate(page)
        done(page)
        assert _last_asked(served) == ("exact", None)
        expect(page.locator(".svd-wrong")).to_have_count(0)


@pytest.mark.slow
def test_a_recipe_of_a_speed_that_is_not_to_be_had(
    page: Page, served: Served, tmp_path: Path
) -> None:
    _drop(page, write_mp4(moving(), tmp_path / "video.mp4", 7, comment=changed(**TURBO)))
    expect(page.locator("#recipe-said")).to_contain_text("doesn’t have, so “Exact” is selected")
    _expect_exact(page)
    generate(page)
    done(page)
    assert _last_asked(served) == ("exact", None)


@pytest.mark.slow
def test_turbo_where_it_is_to_be_had(browser: Browser, tmp_path: Path) -> None:
    examples(tmp_path)
    acceleration = AccelerationConfig(turbo=tmp_path / "turbo.safetensors")
    with serve(tmp_path, FakeWork(tmp_path), acceleration=acceleration) as able:
        link = f"{able.url}/?{urlencode(TURBO)}"
        with visitor(browser, link, home=able.url) as page:
            expect(page.locator("#link-said")).to_have_text("Settings loaded from the link.")
            expect(page.get_by_label("Turbo")).to_be_checked()
            generate(page)
            done(page)
            assert _last_asked(able) == ("turbo", 4)


def _expect_exact(page: Page) -> None:
    expect(page.get_by_label("Exact")).to_be_checked()
    expect(page.get_by_label("Turbo")).to_have_count(0)
    expect(page.get_by_label("Steps")).to_have_value("")
    expect(page.locator(".svd-wrong")).to_contain_text("doesn’t have, so “Exact” is selected")


def _last_asked(served: Served) -> tuple[str, int | None]:
    params = served.work.requests[-1].params
    return params.speed, params.num_inference_steps


def test_no_photo(page: Page) -> None:
    page.get_by_role("button", name="Remove photo").click()
    expect(page.locator("#framing")).to_be_hidden()
    generate(page)
    expect(page.locator("#progress").get_by_role("alert")).to_contain_text("no photo yet")
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()


def _drop(page: Page, path: Path) -> str:
    open_tab(page, "recipe")
    page.locator("#recipe-file input[type=file]").set_input_files(path)
    return page.locator("#recipe-said").inner_text()
