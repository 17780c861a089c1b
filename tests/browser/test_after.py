"""What can be done with a finished video: another file of it, its settings back, code, going on."""

import ast
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect

from svd_core.media.recipe import Recipe
from svd_core.media.video import read_frames, read_rate
from tests.browser.visiting import (
    colourful,
    done,
    generate,
    newcomer,
    open_menu,
    open_tab,
    plays,
    shot,
    upload,
    visitor,
)
from tests.fakes.engines import Served


@pytest.fixture
def made(context: BrowserContext, real: Served, tmp_path: Path) -> Iterator[Page]:
    """A page with a finished video of eight frames at 7 frames per second."""
    with newcomer(context, real.url) as page:
        upload(page, colourful(tmp_path))
        generate(page)
        done(page)
        yield page


def saved(page: Page, folder: Path, kind: str) -> Path:
    """The file that the panel exports with its current settings."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Save in this format").click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    expect(page.locator("#export-said")).to_contain_text(kind)
    return path


@pytest.mark.slow
def test_every_format_opens_and_says_how_long_it_took(
    made: Page, real: Served, tmp_path: Path
) -> None:
    before = len(real.work.requests)
    open_menu(made)
    made.get_by_label("Back and forth").check()
    made.get_by_role("slider", name="Playback FPS").fill("14")
    made.get_by_role("group", name="Smooth playback").get_by_label("Off").check()
    assert len(read_frames(saved(made, tmp_path, ".mp4"))) == 14
    shot(made, "saving")
    for label, kind in (("GIF", "GIF"), ("WebP", "WEBP")):
        made.get_by_label(label, exact=True).check()
        with Image.open(saved(made, tmp_path, kind.lower())) as picture:
            assert picture.format == kind
            assert picture.n_frames == 14  # type: ignore[attr-defined]
            picture.load()
            assert 60 <= picture.info["duration"] <= 80
    made.get_by_label("PNG frames").check()
    made.get_by_label("Backward").check()
    with zipfile.ZipFile(saved(made, tmp_path, ".zip")) as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        first = Image.open(io.BytesIO(archive.read(names[0])))
        assert (len(names), first.size) == (8, (512, 288))
    assert len(real.work.requests) == before


@pytest.mark.slow
def test_a_dropped_video_brings_everything_back(made: Page, real: Served, tmp_path: Path) -> None:
    first = real.work.requests[-1]
    page = made
    open_menu(page)
    path = saved(page, tmp_path, ".mp4")
    page.get_by_role("button", name="Cat").click()
    page.get_by_label("Wild").check()
    page.get_by_label("Blurred edges").check()
    open_tab(page, "recipe")
    page.locator("#recipe-file input[type=file]").set_input_files(path)
    said = page.locator("#recipe-said")
    expect(said).to_contain_text(f"made with svd-nano, seed {first.params.seed}")
    expect(said).to_contain_text("Its photo was still here")
    expect(page.get_by_label("Lively")).to_be_checked()
    expect(page.get_by_label("Crop", exact=True)).to_be_checked()
    shot(page, "recipe")
    open_tab(page, "history")
    generate(page)
    expect(page.locator("#tiles video")).to_have_count(2)
    again = real.work.requests[-1]
    assert again.image == first.image
    assert again.params.seed == first.params.seed
    recipes = [Recipe.read(p) for p in (path, _newest(real.work.folder))]
    assert recipes[0].params == replace(recipes[1].params, interpolation="4x")
    assert recipes[0].box == recipes[1].box


@pytest.mark.slow
def test_a_strangers_video_brings_settings_and_says_what_is_missing(
    made: Page, browser: Browser, real: Served, tmp_path: Path
) -> None:
    open_menu(made)
    path = saved(made, tmp_path, ".mp4")
    with visitor(browser, real.url) as other:
        open_tab(other, "recipe")
        other.locator("#recipe-file input[type=file]").set_input_files(path)
        expect(other.locator("#recipe-said")).to_contain_text("The photo isn’t stored in the file")


@pytest.mark.slow
def test_a_slow_video_plays_smoothly_and_is_saved_so(
    made: Page, real: Served, tmp_path: Path
) -> None:
    smooth = made.get_by_role("group", name="Smooth playback")
    expect(smooth.get_by_label("4×")).to_be_checked()
    expect(made.locator("#video video")).to_have_attribute("src", re.compile(r"\.4x\.mp4$"))
    plays(made)
    path = downloaded(made, tmp_path / "smooth.mp4")
    assert (len(read_frames(path)), read_rate(path)) == (29, 28)
    assert Recipe.read(path).params.interpolation == "4x"
    smooth.get_by_label("Off").check()
    expect(made.locator("#video video")).not_to_have_attribute("src", re.compile("4x"))
    plays(made)
    path = downloaded(made, tmp_path / "as-made.mp4")
    assert (len(read_frames(path)), read_rate(path)) == (8, 7)
    generate(made)
    done(made)
    expect(smooth.get_by_label("Off")).to_be_checked()
    assert real.work.requests[-1].params.interpolation == "off"
    smooth.get_by_label("2×").check()
    expect(made.locator("#video video")).to_have_attribute("src", re.compile(r"\.2x\.mp4$"))
    open_menu(made)
    assert len(read_frames(saved(made, tmp_path, ".mp4"))) == 15
    made.reload()
    done(made)
    expect(smooth.get_by_label("4×")).to_be_checked()


@pytest.mark.slow
def test_a_fast_video_plays_as_it_is(page: Page, served: Served) -> None:
    smooth = page.get_by_role("group", name="Smooth playback")
    expect(smooth.get_by_label("4×")).to_be_checked()  # of the example
    page.get_by_role("slider", name="FPS").fill("20")
    generate(page)
    done(page)
    expect(smooth.get_by_label("Off")).to_be_checked()


@pytest.mark.slow
def test_code_and_link_make_the_video_as_it_plays(
    browser: Browser, page: Page, served: Served
) -> None:
    open_tab(page, "code")
    code, link = page.locator("#snippets code").nth(1), page.locator("#snippets code").first
    expect(code).to_contain_text('"interpolation": "4x"')
    expect(code).to_contain_text('"fps": 7')
    page.get_by_role("slider", name="FPS").fill("20")
    expect(code).not_to_contain_text("interpolation")
    page.get_by_role("group", name="Smooth playback").get_by_label("2×").check()
    expect(code).to_contain_text('"interpolation": "2x"')
    expect(link).to_contain_text("interpolation=2x")
    with visitor(browser, link.text_content() or "", home=served.url) as other:
        switch = other.get_by_role("group", name="Smooth playback")
        expect(switch.get_by_label("2×")).to_be_checked()
        generate(other)
        done(other)
        expect(switch.get_by_label("2×")).to_be_checked()


def downloaded(page: Page, path: Path) -> Path:
    """What "Save video" gives."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Save video").click()
    download.value.save_as(path)
    return path


@pytest.mark.slow
def test_the_last_frame_becomes_the_photo(made: Page, real: Served) -> None:
    last = read_frames(_newest(real.work.folder))[-1]
    open_menu(made)
    made.get_by_role("button", name="Use last frame as photo").click()
    expect(made.locator("#progress")).to_contain_text("The last frame is now your photo")
    open_tab(made, "history")
    generate(made)
    expect(made.locator("#tiles video")).to_have_count(2)
    with Image.open(io.BytesIO(real.work.requests[-1].image)) as photo:
        assert photo.size == (512, 288)
        near = abs(float(sum(photo.resize((1, 1)).getpixel((0, 0)))) - float(last.mean() * 3))  # type: ignore[arg-type]
        assert near < 12


@pytest.mark.slow
def test_a_video_is_extended_and_joined(made: Page, real: Served) -> None:
    made.get_by_role("button", name="Make it longer").click()
    expect(made.locator("#summary")).to_contain_text("15 frames")
    first, second = (request.params.seed for request in real.work.requests[-2:])
    assert first != second
    assert len(read_frames(_newest(real.work.folder))) == 15
    open_tab(made, "history")
    made.get_by_role("button", name="New seed").click()
    expect(made.locator("#tiles video")).to_have_count(3)
    done(made)
    assert len(read_frames(_newest(real.work.folder))) == 15
    shot(made, "extended")


def test_code_follows_the_dials_and_is_copied_by_a_click(page: Page, served: Served) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("slider", name="Motion").fill("93")
    open_tab(page, "code")
    code = page.locator("#snippets code").nth(1)
    expect(code).to_contain_text('"motion_bucket_id": 93')
    expect(code).to_contain_text(f"{served.url}/fal")
    page.get_by_role("slider", name="Motion").fill("94")
    expect(code).to_contain_text('"motion_bucket_id": 94')
    page.locator("#snippets button").nth(1).click()
    expect(page.locator("#snippets button").nth(1)).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == code.text_content()
    ast.parse(copied)


@pytest.mark.slow
def test_a_link_brings_the_settings_to_somebody_else(
    browser: Browser, page: Page, served: Served
) -> None:
    page.get_by_label("Gentle").check()
    page.get_by_label("Blurred edges").check()
    page.get_by_label("Seed", exact=True).fill("77")
    page.get_by_label("New seed every time").uncheck()
    open_tab(page, "code")
    link = page.locator("#snippets code").first
    expect(link).to_contain_text("seed=77")
    expect(link).to_contain_text("motion_bucket_id=70")
    address = link.text_content() or ""
    assert address.startswith(f"{served.url}/?")
    with visitor(browser, address, home=served.url) as other:
        expect(other.locator("#link-said")).to_contain_text("loaded from the link")
        expect(other.get_by_label("Gentle")).to_be_checked()
        expect(other.get_by_label("Blurred edges")).to_be_checked()
        expect(other.get_by_label("New seed every time")).not_to_be_checked()
        generate(other)
        done(other)
        params = served.work.requests[-1].params
        assert (params.seed, params.motion_bucket_id, params.fit) == (77, 70, "pad")


def _newest(folder: Path) -> Path:
    """The video that was made last; playback files have a second dot in their names."""
    videos = (path for path in folder.glob("*.mp4") if path.stem.isalnum())
    return max(videos, key=lambda path: path.stat().st_mtime_ns)
