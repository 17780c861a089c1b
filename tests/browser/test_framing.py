"""Crop preview: it shows what the core will frame, and follows drag, click and arrow keys."""

import base64
import io
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from svd_core.checkpoints.table import CHECKPOINTS
from svd_core.media.image import frame_photo, open_photo, shown_box, size_for
from svd_core.params import VideoParams
from svd_core.web.page import framing
from tests.browser.visiting import colourful, done, generate, shot, upload, visitor
from tests.fakes.engines import Served

SIZES = CHECKPOINTS["svd-nano"].sizes

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def embedded(image: Locator) -> Image.Image:
    """The picture in a data URI."""
    source = image.get_attribute("src") or ""
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))


def assert_same(picture: Image.Image, shown: Image.Image) -> None:
    """The same picture, but for its size and JPEG."""
    small = (64, round(64 * picture.height / picture.width))
    arrays = [np.asarray(each.convert("RGB").resize(small), float) for each in (picture, shown)]
    assert np.abs(arrays[0] - arrays[1]).mean() < 2


def assert_window(page: Page, path: Path, **params: object) -> None:
    """The window lies over the photo where the core will cut it, to half a percent."""
    photo = open_photo(path.read_bytes())
    wanted = VideoParams(**params)  # type: ignore[arg-type]
    size = size_for(photo.size, SIZES, wanted.orientation)
    left, top, right, bottom = shown_box(photo.size, size, wanted)
    expected = [left / photo.width, top / photo.height,
                (right - left) / photo.width, (bottom - top) / photo.height]  # fmt: skip
    page.wait_for_function(
        """(expected) => {
            const window = document.querySelector("#framing .svd-window");
            if (!window) return false;
            const [a, b] = [window, window.parentElement].map((e) => e.getBoundingClientRect());
            const places = [(a.x - b.x) / b.width, (a.y - b.y) / b.height,
                            a.width / b.width, a.height / b.height];
            return places.every((place, n) => Math.abs(place - expected[n]) < 0.005);
        }""",
        arg=expected,
    )


def test_the_preview_is_what_the_core_frames(page: Page, tmp_path: Path) -> None:
    path = colourful(tmp_path, (400, 700))
    upload(page, path)
    caption = page.locator("#framing figcaption")
    expect(caption).to_contain_text("288 × 512")
    assert_same(open_photo(path.read_bytes()), embedded(page.locator("#photo-preview img")))
    assert_window(page, path)
    page.get_by_label("Blurred edges").check()
    expect(caption).to_contain_text("whole photo")
    for params in ({"fit": "pad"}, {"fit": "pad", "orientation": "landscape"}):
        if "orientation" in params:
            page.get_by_label("Landscape").check()
            expect(caption).to_contain_text("512 × 288")
        framed = frame_photo(open_photo(path.read_bytes()), SIZES, VideoParams(**params))  # type: ignore[arg-type]
        assert_same(framed.image, embedded(page.locator("#framing .svd-framed")))


@pytest.fixture
def wide(page: Page, tmp_path: Path) -> tuple[Page, Path]:
    """A page with a photo that is cut left and right."""
    path = colourful(tmp_path, (800, 300))
    upload(page, path)
    expect(crop(page)).to_have_attribute("aria-valuenow", "50")
    assert_window(page, path)
    return page, path


def crop(page: Page) -> Locator:
    return page.get_by_role("slider", name="Drag to choose what the model sees")


def focus(page: Page) -> float:
    """The crop's place as the settings have it."""
    return float(page.locator("#focus_x input[type=number]").input_value())


def test_a_click_centres_the_crop_there(wide: tuple[Page, Path]) -> None:
    page, path = wide
    box = page.locator("#photo-preview img").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.97, box["y"] + box["height"] / 2)
    expect(crop(page)).to_have_attribute("aria-valuenow", "100")
    assert_window(page, path, focus_x=1)
    assert focus(page) == 1


def test_a_drag_moves_the_crop_and_reaches_the_core(
    wide: tuple[Page, Path], served: Served
) -> None:
    page, path = wide
    box = crop(page).bounding_box()
    assert box is not None
    start = (box["x"] + 40, box["y"] + 40)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] - 30, start[1] + 9, steps=4)
    shot(page, "dragging")
    page.mouse.up()
    expect(crop(page)).not_to_have_attribute("aria-valuenow", "50")
    moved = focus(page)
    assert 0.05 < moved < 0.45
    assert_window(page, path, focus_x=moved)
    generate(page)
    done(page)
    assert served.work.requests[-1].params.focus_x == moved


@pytest.mark.slow
def test_a_drag_from_outside_the_crop_takes_it_along(wide: tuple[Page, Path]) -> None:
    page, path = wide
    box = page.locator("#photo-preview img").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 3, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 40, steps=4)
    page.mouse.up()
    expect(crop(page)).to_have_attribute("aria-valuenow", "100")
    assert_window(page, path, focus_x=1)


@pytest.mark.slow
def test_arrow_keys_move_the_crop(wide: tuple[Page, Path]) -> None:
    page, path = wide
    crop(page).focus()
    for key, place in (("Home", "0"), ("ArrowRight", "4"), ("PageDown", "24"), ("End", "100")):
        page.keyboard.press(key)
        expect(crop(page)).to_have_attribute("aria-valuenow", place)
    expect(crop(page)).to_be_focused()
    assert_window(page, path, focus_x=1)


def test_a_cancelled_drag_leaves_the_crop_where_it_was(wide: tuple[Page, Path]) -> None:
    page, path = wide
    page.evaluate(
        """() => {
            const area = document.querySelector("#framing [data-axis]");
            const box = area.getBoundingClientRect();
            const fire = (type, x) => area.firstChild.dispatchEvent(new PointerEvent(type, {
                bubbles: true, pointerId: 1, clientX: x, clientY: box.y + 20,
            }));
            area.setPointerCapture = () => {};
            fire("pointerdown", box.x + box.width / 2);
            fire("pointermove", box.x + box.width);
            fire("pointercancel", box.x + box.width);
        }"""
    )
    assert_window(page, path)
    assert focus(page) == 0.5


@pytest.mark.slow
def test_fingers_scroll_tap_and_drag_the_handle(
    browser: Browser, served: Served, tmp_path: Path
) -> None:
    path = colourful(tmp_path, (300, 400))
    with visitor(browser, served.url, **PHONE) as page:
        upload(page, path)
        page.get_by_label("Landscape").check()
        expect(crop(page)).to_have_attribute("aria-orientation", "vertical")
        assert_window(page, path, orientation="landscape")
        box = page.locator("#photo-preview img").bounding_box()
        assert box is not None
        page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + 4)
        expect(crop(page)).to_have_attribute("aria-valuenow", "0")
        handle = crop(page).locator("i")
        place = handle.bounding_box()
        assert place is not None
        assert min(place["width"], place["height"]) >= 44
        _swipe(page, place["x"] + 22, place["y"] + 22, 60)
        expect(crop(page)).not_to_have_attribute("aria-valuenow", "0")
        assert page.evaluate("scrollY") == 0
        before = crop(page).get_attribute("aria-valuenow")
        _swipe(page, box["x"] + box["width"] / 2 - 60, box["y"] + box["height"] - 10, -200)
        page.wait_for_function("scrollY > 50")
        assert crop(page).get_attribute("aria-valuenow") == before
        shot(page, "crop-phone")


def _swipe(page: Page, x: float, y: float, distance: float) -> None:
    """A finger, down or up."""
    session = page.context.new_cdp_session(page)
    steps: list[tuple[str, list[dict[str, float]]]] = [("touchStart", [{"x": x, "y": y}])]
    steps += [("touchMove", [{"x": x, "y": y + distance * part / 10}]) for part in range(1, 11)]
    for kind, points in [*steps, ("touchEnd", [])]:
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    session.detach()


def test_a_file_that_is_no_photo_is_answered_in_its_place(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "letter.png"
    path.write_text("just text")
    page.get_by_role("button", name="Remove photo").click()
    page.locator("#photo input[type=file]").set_input_files(path)
    expect(page.locator("#photo-preview").get_by_role("alert")).to_contain_text("not a photo")
    upload(page, colourful(tmp_path))
    expect(page.locator("#photo-preview").get_by_role("alert")).to_have_count(0)


def test_one_click_replaces_the_photo_and_cancelling_keeps_it(page: Page, tmp_path: Path) -> None:
    own = page.get_by_role("button", name="Use your own photo")
    with page.expect_file_chooser():
        own.click()  # and the visitor cancels
    expect(page.locator("#framing figure")).to_be_visible()
    with page.expect_file_chooser() as chooser:
        own.click()
    chooser.value.set_files(colourful(tmp_path, (300, 300)))
    expect(page.locator("#framing figcaption")).to_contain_text("384 × 384")


@pytest.mark.slow
def test_a_moved_crop_sends_little(page: Page, tmp_path: Path) -> None:
    """For a photo of 12 megapixels, busier than photos are. `benchmarks page` has the time."""
    path = tmp_path / "large.jpg"
    noise = np.random.default_rng(1).integers(0, 255, (75, 100, 3), np.uint8)
    Image.fromarray(noise).resize((4000, 3000)).save(path, quality=90)
    upload(page, path)
    expect(crop(page)).to_have_attribute("aria-orientation", "vertical")
    crop(page).focus()
    page.keyboard.press("End")
    expect(crop(page)).to_have_attribute("aria-valuenow", "100")
    assert_window(page, path, focus_y=1)
    sent = len(page.locator("#photo-preview").inner_html() + page.locator("#framing").inner_html())
    assert sent < 200_000


@pytest.mark.slow
def test_another_photo_is_framed_in_the_middle(wide: tuple[Page, Path], tmp_path: Path) -> None:
    page, _ = wide
    crop(page).focus()
    page.keyboard.press("End")
    expect(crop(page)).to_have_attribute("aria-valuenow", "100")
    other = colourful(tmp_path, (900, 300))
    upload(page, other)
    assert_window(page, other)
    assert re.search("0.5", page.locator("#focus_x input[type=number]").input_value())


@pytest.mark.slow
def test_settings_changed_while_a_photo_is_decoded_count(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, decode = threading.Event(), framing.CachedPhoto

    def slow(photo: bytes) -> framing.CachedPhoto:
        assert go.wait(60)
        return decode(photo)

    monkeypatch.setattr(framing, "CachedPhoto", slow)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Use your own photo").click()
    path = colourful(tmp_path, (300, 400))
    chooser.value.set_files(path)
    page.get_by_label("Landscape").check()
    page.wait_for_timeout(500)  # for the server to frame, which is for nothing yet
    go.set()
    expect(crop(page)).to_have_attribute("aria-orientation", "vertical")
    assert_window(page, path, orientation="landscape")
