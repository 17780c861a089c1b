"""The page in a real Chromium: what a visitor does and sees, with a fake engine behind it."""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Error,
    Page,
    ViewportSize,
    expect,
    sync_playwright,
)

from tests.fakes import READY, FakeWork, Served, examples, photo, serve

DESKTOP: ViewportSize = {"width": 1280, "height": 900}

# As root Chromium runs without its sandbox only; /dev/shm is small in containers.
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]

PATIENCE_MS = 30_000
"""Two busy cores take seconds to open a page; an idle machine never waits for this."""

CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        except Error as error:
            if os.environ.get("REQUIRE_BROWSER"):
                raise
            pytest.skip(f"no Chromium here: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    examples(folder)
    with serve(folder, FakeWork(folder)) as served:
        yield served


@pytest.fixture(scope="module")
def context(browser: Browser, served: Served) -> Iterator[BrowserContext]:
    """A visitor for whom every request beyond the page's own origin fails the tests."""
    context = browser.new_context(viewport=DESKTOP)
    context.set_default_timeout(PATIENCE_MS)
    strangers: list[str] = []
    context.on("request", lambda request: strangers.append(request.url))
    yield context
    context.close()
    own = ("data:", "blob:", served.url)
    assert any(url.startswith(served.url) for url in strangers)
    assert [url for url in strangers if not url.startswith(own)] == []


@pytest.fixture
def page(context: BrowserContext, served: Served) -> Iterator[Page]:
    """A tab that was opened by somebody who has not been here before."""
    page = context.new_page()
    page.said = []  # type: ignore[attr-defined]  # what the console says, for whom it concerns
    page.on("console", lambda message: page.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: page.said.append(f"error: {error}"))
    page.goto(served.url)
    expect(page.locator("#device")).to_contain_text("svd-nano on CPU, 2 cores")
    expect(page.locator("#photo img")).to_be_visible()
    yield page
    for tab in context.pages:
        tab.evaluate("localStorage.clear()")
        tab.close()


def upload(page: Page, path: Path) -> None:
    page.get_by_role("button", name="Remove Image").click()
    page.locator("#photo input[type=file]").set_input_files(path)
    expect(page.locator("#photo img")).to_be_visible()


def plays(page: Page) -> None:
    """The video in the player is one that this browser plays, over and over."""
    page.wait_for_function(
        """() => {
            const video = document.querySelector("#video video");
            return video && video.readyState >= 2 && !video.error && video.videoWidth > 0
                && video.loop && !video.paused && video.currentTime > 0;
        }"""
    )


def test_a_visitor_turns_a_photo_into_a_video(page: Page, served: Served, tmp_path: Path) -> None:
    path = photo(tmp_path / "mine.png")
    upload(page, path)
    page.get_by_role("slider", name="Motion").fill("201")
    progress = page.locator("#progress")
    with served.work.held():
        page.get_by_role("button", name="Generate").click()
        expect(progress).to_contain_text("Imagining the motion · step 2 of 8 · about 6.0 s left")
        expect(progress.get_by_role("progressbar")).to_be_visible()
        expect(page.get_by_role("button", name="Generate")).to_be_disabled()
    expect(progress).to_contain_text("Done in")
    plays(page)
    request = served.work.requests[-1]
    assert request.image == path.read_bytes()
    assert request.params.motion_bucket_id == 201
    expect(page.get_by_label("Seed", exact=True)).to_have_value(str(request.params.seed))
    expect(page.locator("#summary")).to_contain_text("8 frames, 128 × 72 pixels, 7 fps, 1.1 s long")
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename.endswith(".mp4")
    assert [said for said in page.said if said.startswith("error")] == []  # type: ignore[attr-defined]


def test_a_kept_seed_and_fine_control_reach_the_core(page: Page, served: Served) -> None:
    page.get_by_label("Seed", exact=True).fill("4294967295")
    page.get_by_label("New seed for every video").uncheck()
    page.get_by_label("Pad to keep it all").check()
    page.get_by_role("button", name="Fine control").click()
    page.get_by_role("textbox", name="Steps").fill("5")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#progress")).to_contain_text("Done in")
    params = served.work.requests[-1].params
    assert (params.seed, params.fit, params.num_inference_steps) == (4294967295, "pad", 5)
    assert params.num_frames is None


def test_stop_ends_the_job_and_leaves_the_page_ready(page: Page, served: Served) -> None:
    stop = page.get_by_role("button", name="Stop")
    expect(stop).to_be_disabled()
    with served.work.held():
        page.get_by_role("button", name="Generate").click()
        expect(page.locator("#progress")).to_contain_text("step 2 of 8")
        stop.click()
        expect(page.locator("#progress")).to_contain_text("Stopped, as you asked.")
    expect(stop).to_be_disabled()
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#progress")).to_contain_text("Done in")


def test_a_bad_file_and_no_file_are_answered_in_words(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "letter.png"
    path.write_text("just text")
    page.get_by_role("button", name="Remove Image").click()
    generate, progress = page.get_by_role("button", name="Generate"), page.locator("#progress")
    generate.click()
    expect(progress.get_by_role("alert")).to_contain_text("There is no photo yet")
    page.locator("#photo input[type=file]").set_input_files(path)
    expect(page.locator("#photo img")).to_be_attached()
    generate.click()
    expect(progress.get_by_role("alert")).to_contain_text("not a picture that can be read")
    expect(page.get_by_test_id("toast-body").first).to_be_visible()
    expect(generate).to_be_enabled()


def test_a_click_on_an_example_shows_its_photo_and_video(page: Page, served: Served) -> None:
    plays(page)
    before = len(served.work.requests)
    page.get_by_role("button", name="Cat").click()
    expect(page.locator("#video video")).to_have_attribute("src", _ends("cat.mp4"))
    expect(page.locator("#photo img")).to_have_attribute("src", _ends("cat.jpg"))
    plays(page)
    assert len(served.work.requests) == before
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#progress")).to_contain_text("Done in")
    cat = served.work.folder / "examples" / "cat.jpg"
    assert served.work.requests[-1].image == cat.read_bytes()


def test_closing_the_tab_loses_nothing(context: BrowserContext, page: Page, served: Served) -> None:
    with served.work.held():
        page.get_by_role("button", name="Generate").click()
        expect(page.locator("#progress")).to_contain_text("step 2 of 8")
        page.close()
        again = context.new_page()
        again.goto(served.url)
        expect(again.locator("#progress")).to_contain_text("step 2 of 8")
    expect(again.locator("#progress")).to_contain_text("Done in")
    plays(again)
    again.reload()
    expect(again.locator("#progress")).to_contain_text("Done in")


def test_the_page_fits_a_phone_and_brings_the_progress_into_sight(page: Page) -> None:
    too_wide = "document.documentElement.scrollWidth - window.innerWidth"
    assert page.evaluate(too_wide) <= 0
    page.set_viewport_size({"width": 390, "height": 844})
    page.get_by_role("button", name="Fine control").click()
    page.get_by_role("textbox", name="Steps").wait_for()
    assert page.evaluate(too_wide) <= 0
    progress = page.locator("#progress")
    expect(progress).not_to_be_in_viewport()
    page.get_by_role("button", name="Generate").click()
    expect(progress).to_be_in_viewport()


def test_text_has_enough_contrast_by_day_and_by_night(page: Page) -> None:
    page.get_by_role("button", name="Fine control").click()
    page.get_by_role("textbox", name="Steps").wait_for()
    assert page.evaluate(CONTRAST) == []
    page.evaluate("document.body.classList.add('dark')")
    page.wait_for_timeout(500)  # colours change gradually
    assert page.evaluate(CONTRAST) == []
    page.add_style_tag(content="#device p { color: #777 !important; }")
    assert any("demonstration" in text for text in page.evaluate(CONTRAST))


def test_loading_and_a_notice_are_shown_until_the_model_is_ready(
    browser: Browser, tmp_path: Path
) -> None:
    sentence = "The hub cannot be reached. Until then svd-nano runs here."
    now = [replace(READY, state="loading", notice=sentence)]
    with serve(tmp_path, status=lambda: now[0]) as served:
        page = browser.new_page()
        page.goto(served.url)
        expect(page.locator("#device")).to_contain_text("loading")
        expect(page.locator("#notice")).to_contain_text(sentence)
        now[0] = READY
        expect(page.locator("#device")).not_to_contain_text("loading")
        expect(page.locator("#notice")).to_be_hidden()
        page.close()


def _ends(name: str) -> "re.Pattern[str]":
    return re.compile(rf"/{re.escape(name)}$")
