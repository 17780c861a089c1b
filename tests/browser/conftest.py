"""A real Chromium, one served page for all tests of this folder, and what they look for on it.

Pictures of what the tests see are written to `shots/` in this folder.
"""

import io
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import (
    Browser,
    Error,
    Page,
    ViewportSize,
    expect,
    sync_playwright,
)

from tests.fake_work import moving
from tests.fakes import FakeWork, RealWork, Served, examples, photo, serve

DESKTOP: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 360, "height": 780}

# As root Chromium runs without its sandbox only; /dev/shm is small in containers. Nobody clicks
# before a test looks at a video.
FLAGS = [
    "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
    "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip

PATIENCE_MS = 30_000
"""Two busy cores take seconds to open a page; an idle machine never waits for this."""

SHOTS = Path(__file__).with_name("shots")

Visit = Callable[..., Page]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    SHOTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        except Error as error:
            if os.environ.get("REQUIRE_BROWSER"):
                raise
            pytest.skip(f"no Chromium here: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    examples(folder)
    with serve(folder, FakeWork(folder, preview=small_film())) as served:
        yield served


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A page whose videos are made by the whole core, less the model: they have recipes."""
    folder = tmp_path_factory.mktemp("real")
    examples(folder)
    with serve(folder, RealWork(folder)) as served:
        yield served


@contextmanager
def visitor(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """A tab of somebody who has not been here before. No request may leave the page's own origin,
    and nothing may go wrong in the console."""
    context = browser.new_context(**{"viewport": DESKTOP} | options)
    context.set_default_timeout(PATIENCE_MS)
    asked: list[str] = []
    said: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    context.on("console", lambda entry: said.append(f"{entry.type}: {entry.text}"))
    context.on("weberror", lambda error: said.append(f"error: {error.error}"))
    page = context.new_page()
    open_page(page, url)
    try:
        yield page
    finally:
        context.close()
    assert [address for address in asked if not address.startswith(("data:", "blob:", url))] == []
    assert [entry for entry in said if entry.startswith("error")] == []


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    with visitor(browser, served.url) as page:
        yield page


def small_film() -> bytes:
    """An animation as the core sends it while it works."""
    pictures = [Image.fromarray(frame) for frame in moving()]
    file = io.BytesIO()
    pictures[0].save(file, "WEBP", save_all=True, append_images=pictures[1:], duration=100, loop=0)
    return file.getvalue()


def open_page(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.locator("#device")).to_contain_text("svd-nano")
    expect(page.locator("#framing figure")).to_be_visible()


def upload(page: Page, path: Path) -> None:
    page.locator("#photo").get_by_role("button", name=re.compile("Remove|Clear|Entfernen")).click()
    expect(page.locator("#framing figure")).to_have_count(0)
    page.locator("#photo input[type=file]").set_input_files(path)
    expect(page.locator("#photo img")).to_be_visible()


def colourful(folder: Path, size: tuple[int, int] = (320, 180)) -> Path:
    return photo(folder / f"mine-{size[0]}x{size[1]}.png", size)


def generate(page: Page) -> None:
    page.get_by_role("button", name="Generate").click()


def done(page: Page) -> None:
    expect(page.locator("#progress")).to_contain_text("Done in")


def plays(page: Page, selector: str = "#video video") -> None:
    """The video is one that this browser plays, over and over."""
    page.wait_for_function(
        """(selector) => {
            const video = document.querySelector(selector);
            return video && video.readyState === 4 && !video.error && video.videoWidth > 0
                && video.loop && !video.paused && video.currentTime > 0;
        }""",
        arg=selector,
    )


def shot(page: Page, name: str) -> None:
    """A picture for people to look at."""
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)
