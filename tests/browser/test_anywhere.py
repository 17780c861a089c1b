"""Files dropped on the page, wherever: a video brings its settings, a photo becomes the photo."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from svd_core.media.video import write_mp4
from tests.browser.test_bad_input import changed
from tests.browser.test_look import CONTRAST, LOOKS
from tests.browser.visiting import DESKTOP, colourful, done, drop, generate, hover, visitor
from tests.fakes.engines import Served
from tests.fakes.work import moving

SOMEWHERE = (900.0, 800.0)
"""On the page, beside everything that is on it."""

NONE = "has no recipe inside"

LEFT = "document.body.dispatchEvent(new DragEvent('dragleave', { bubbles: true }))"
"""A drag leaves the window."""


def film(path: Path, comment: str = "") -> Path:
    return write_mp4(moving(), path, 7, comment=comment)


def animated(path: Path) -> Path:
    first, *more = [Image.fromarray(frame) for frame in moving()]
    first.save(path, save_all=True, append_images=more)
    return path


def still(path: Path) -> Path:
    with Image.open(colourful(path.parent, (300, 300))) as picture:
        picture.save(path, lossless=True)  # lossless, or it has no header to look into
    return path


def zipped(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("recipe.json", changed(seed=8))
    return path


def test_a_video_brings_its_settings(page: Page, served: Served, tmp_path: Path) -> None:
    said = page.locator("#recipe-said")
    drop(page, SOMEWHERE, film(tmp_path / "1.mp4", changed(seed=5, motion_bucket_id=33)))
    expect(said).to_contain_text("seed 5")
    expect(said).to_be_in_viewport()
    expect(page.get_by_role("slider", name="Motion")).to_have_value("33")
    expect(page.locator("#drop p").first).to_be_hidden()
    drop(page, SOMEWHERE, film(tmp_path / "2.mp4", changed(seed=6)))  # where one lies already
    expect(said).to_contain_text("seed 6")
    expect(page.get_by_role("slider", name="Motion")).to_have_value("127")
    drop(page, SOMEWHERE, film(tmp_path / "3.mp4"))
    expect(said.get_by_role("alert")).to_contain_text(NONE)
    assert page.url.rstrip("/") == served.url
    generate(page)
    done(page)


def test_a_photo_becomes_the_photo(page: Page, served: Served, tmp_path: Path) -> None:
    for size, shape in (((300, 300), "384 × 384"), ((180, 320), "288 × 512")):
        drop(page, SOMEWHERE, colourful(tmp_path, size))
        expect(page.locator("#framing figcaption")).to_contain_text(shape)
    page.get_by_role("button", name="Remove photo").click()
    expect(page.locator("#framing")).to_be_hidden()
    drop(page, SOMEWHERE, colourful(tmp_path, (300, 300)))
    expect(page.locator("#framing figcaption")).to_contain_text("384 × 384")
    assert page.url.rstrip("/") == served.url
    path = colourful(tmp_path, (300, 300))
    generate(page)
    done(page)
    assert served.work.requests[-1].image == path.read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "still.webp",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("lossless.webp", "photo.jpg")),
    ],
)
def test_what_stands_still_is_a_photo(page: Page, tmp_path: Path, name: str) -> None:
    drop(page, SOMEWHERE, still(tmp_path / name))
    expect(page.locator("#framing figcaption")).to_contain_text("384 × 384")
    expect(page.locator("#recipe-said")).to_have_count(0)


@pytest.mark.parametrize(
    ("make", "name", "sentence"),
    [(animated, "moving.webp", NONE), (animated, "moving.gif", NONE), (zipped, "f.zip", "seed 8")],
)
def test_what_moves_is_a_video(
    page: Page, tmp_path: Path, make: Callable[[Path], Path], name: str, sentence: str
) -> None:
    drop(page, SOMEWHERE, make(tmp_path / name))
    expect(page.locator("#recipe-said")).to_contain_text(sentence)
    expect(page.locator("#framing figcaption")).to_contain_text("512 × 288")


@pytest.mark.slow
def test_on_the_photo_all_but_a_video_is_a_photo(page: Page, tmp_path: Path) -> None:
    drop(page, centre(page, "#photo"), still(tmp_path / "still.webp"))
    expect(page.locator("#framing figcaption")).to_contain_text("384 × 384")
    drop(page, centre(page, "#photo"), animated(tmp_path / "moving.gif"))
    expect(page.locator("#framing figcaption")).to_contain_text("512 × 288")
    expect(page.locator("#recipe-said")).to_have_count(0)
    drop(page, centre(page, "#photo"), film(tmp_path / "1.mp4", changed(seed=5)))
    expect(page.locator("#recipe-said")).to_contain_text("seed 5")
    drop(page, centre(page, "#recipe-file"), film(tmp_path / "2.mp4", changed(seed=6)))
    expect(page.locator("#recipe-said")).to_contain_text("seed 6")


def test_several_photos_are_several_photos(page: Page, tmp_path: Path) -> None:
    drop(page, SOMEWHERE, colourful(tmp_path), colourful(tmp_path, (300, 300)))
    expect(page.locator("#photos")).to_contain_text("mine-320x180")
    expect(page.locator("#photos")).to_contain_text("mine-300x300")
    drop(page, centre(page, "#photos"), colourful(tmp_path, (180, 320)))
    expect(page.locator("#photos")).to_contain_text("mine-180x320")
    expect(page.locator("#framing figcaption")).to_contain_text("512 × 288")


@pytest.mark.slow
def test_two_gigabytes_are_told_beside_the_field_they_were_meant_for(
    page: Page, tmp_path: Path
) -> None:
    for name, place in (("video.mp4", "#recipe"), ("photo.jpg", "#photo-area")):
        path = tmp_path / name
        with path.open("wb") as file:
            file.truncate(2 * 2**30)
        drop(page, SOMEWHERE, path)
        expect(page.locator(place).get_by_role("alert")).to_contain_text("over the 20 MB limit")


@pytest.mark.slow
@pytest.mark.parametrize("look", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_a_hint_shows_while_a_file_is_over_the_page(
    browser: Browser, served: Served, tmp_path: Path, look: str
) -> None:
    video, photo, webp = film(tmp_path / "1.mp4"), colourful(tmp_path), still(tmp_path / "1.webp")
    with visitor(browser, served.url, **LOOKS[look]) as page:
        hints = page.locator("#drop p")
        expect(hints.first).to_be_hidden()
        for path, shown in ((video, [False, True]), (photo, [True, False]), (webp, [True, True])):
            hover(page, SOMEWHERE, path)
            expect(page.locator("#drop")).to_have_css("opacity", "1")
            assert [hint.is_visible() for hint in hints.all()] == shown
            page.screenshot(path=Path(__file__).with_name("shots") / f"drag-{look}.png")
            assert [text for text in page.evaluate(CONTRAST) if "Drop the" in text] == []
            hover(page, centre(page, "#photo"), path)  # which shows by itself what it is
            expect(hints.first).to_be_hidden()
            hover(page, SOMEWHERE, path)
            expect(page.locator("#drop")).to_have_css("opacity", "1")
            page.evaluate(LEFT)  # which the browser's own tools cannot do
            expect(hints.last).to_be_hidden()


@pytest.mark.slow
def test_the_hint_is_calm_and_german_if_asked(
    browser: Browser, served: Served, tmp_path: Path
) -> None:
    calm: dict[str, Any] = {"reduced_motion": "reduce", "locale": "de"}
    with visitor(browser, served.url, viewport=DESKTOP, **calm) as page:
        hover(page, SOMEWHERE, film(tmp_path / "1.mp4"))
        expect(page.locator("#drop")).to_contain_text("Video ablegen")
        expect(page.locator("#drop")).to_have_css("transition-duration", "0s")


FILE = """(steps) => {
    const data = new DataTransfer();
    data.items.add(new File(["x"], "photo.png", { type: "image/png" }));
    const about = { bubbles: true, cancelable: true, dataTransfer: data };
    return steps.map((step) => document.body.dispatchEvent(new DragEvent(step, about)));
}"""
"""Drags a file; False for each step at which the browser is not to do what it usually does."""


def test_pictures_of_the_page_itself_are_no_files(page: Page) -> None:
    assert page.evaluate(FILE, ["dragstart", "dragover"]) == [True, True]
    expect(page.locator("#drop p").first).to_be_hidden()
    assert page.evaluate(FILE, ["dragend", "dragover"]) == [True, False]
    expect(page.locator("#drop p").first).to_be_visible()


def test_the_browser_never_leaves_for_a_file(page: Page) -> None:
    assert page.evaluate(FILE, ["dragover", "drop"]) == [False, False]
    page.get_by_role("button", name="Demo mode").click()
    assert page.evaluate(FILE, ["dragover", "drop"]) == [False, False]


@pytest.mark.slow
def test_demo_mode_takes_no_files_and_stays(page: Page, served: Served, tmp_path: Path) -> None:
    page.get_by_role("button", name="Demo mode").click()
    drop(page, SOMEWHERE, film(tmp_path / "1.mp4", changed(seed=5)))
    page.get_by_role("button", name="Exit demo mode").click()
    expect(page.locator("#recipe-button")).to_have_attribute("aria-selected", "false")
    assert page.url.rstrip("/") == served.url


def centre(page: Page, selector: str) -> tuple[float, float]:
    page.locator(selector).scroll_into_view_if_needed()
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
