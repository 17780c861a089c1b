"""What the model will see, before anything is made: the same picture that it then gets, at once."""

import base64
import io
import time
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect

from svd_core.image import frame_photo, open_photo
from svd_core.models import CHECKPOINTS
from svd_core.params import VideoParams
from tests.browser.visiting import colourful, shot, upload

SIZES = CHECKPOINTS["svd-nano"].sizes


def shown(page: Page) -> Image.Image:
    source = page.locator("#framing .svd-framed").get_attribute("src") or ""
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))


def assert_like(page: Page, path: Path, **params: object) -> None:
    """The preview is, but for its size and JPEG, what the core frames."""
    framed = frame_photo(open_photo(path.read_bytes()), SIZES, VideoParams(**params)).image  # type: ignore[arg-type]
    small = (64, round(64 * framed.height / framed.width))
    pictures = [np.asarray(p.resize(small), float) for p in (framed, shown(page))]
    assert np.abs(pictures[0] - pictures[1]).mean() < 2


def test_the_preview_is_what_the_core_frames(page: Page, tmp_path: Path) -> None:
    path = colourful(tmp_path, (400, 700))
    upload(page, path)
    expect(page.locator("#framing figcaption")).to_contain_text("288 × 512")
    assert_like(page, path)
    expect(page.get_by_role("slider", name="Crop, top to bottom")).to_be_hidden()
    page.get_by_label("Blurred edges").check()
    expect(page.locator("#framing figcaption")).to_contain_text("the whole photo")
    assert_like(page, path, fit="pad")
    page.get_by_label("Landscape").check()
    expect(page.locator("#framing figcaption")).to_contain_text("512 × 288")
    _settled(page)
    assert_like(page, path, fit="pad", orientation="landscape")


def test_a_click_on_the_photo_and_a_drag_move_the_crop(page: Page, tmp_path: Path) -> None:
    path = colourful(tmp_path, (800, 300))
    upload(page, path)
    across = page.get_by_role("slider", name="Crop, left to right")
    expect(across).to_have_value("0.5")
    box = page.locator("#photo img").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.95, box["y"] + box["height"] / 2)
    expect(across).to_have_value("1")
    _settled(page)
    assert_like(page, path, focus_x=1)
    frame = page.locator("#framing figure > div").bounding_box()
    assert frame is not None
    page.mouse.move(frame["x"] + 40, frame["y"] + 40)
    page.mouse.down()
    page.mouse.move(frame["x"] + 40 + frame["width"] * 0.25, frame["y"] + 40, steps=4)
    shot(page, "dragging")
    page.mouse.up()
    expect(across).not_to_have_value("1")
    _settled(page)
    focus = float(across.input_value())
    assert 0.3 < focus < 0.7
    assert_like(page, path, focus_x=focus)


def test_a_file_that_is_no_photo_is_answered_beside_it(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "letter.png"
    path.write_text("just text")
    page.get_by_role("button", name="Remove Image").click()
    page.locator("#photo input[type=file]").set_input_files(path)
    expect(page.locator("#framing").get_by_role("alert")).to_contain_text("not a picture")
    upload_again = colourful(tmp_path)
    page.get_by_role("button", name="Remove Image").click()
    page.locator("#photo input[type=file]").set_input_files(upload_again)
    expect(page.locator("#framing figure")).to_be_visible()


def _settled(page: Page) -> None:
    """The newest picture has come."""
    before = ""
    for _ in range(50):
        now = page.locator("#framing").inner_html()
        if now == before:
            return
        before = now
        time.sleep(0.3)
