"""A real Chromium, and one served page for all tests of this folder."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

from tests.browser.visiting import PATIENCE_MS, SHOTS, new_context, newcomer, small_film
from tests.fakes.engines import RealWork, Served, examples, serve
from tests.fakes.work import FakeWork

# As root Chromium runs without its sandbox only; /dev/shm is small in containers. No test clicks
# before it looks at a video.
FLAGS = [
    "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
    "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
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


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    examples(folder)
    with serve(folder, FakeWork(folder, preview=small_film())) as served:
        yield served


@pytest.fixture(scope="package")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A page whose videos are made by the whole core, less the model: they have recipes."""
    folder = tmp_path_factory.mktemp("real")
    examples(folder)
    with serve(folder, RealWork(folder)) as served:
        yield served


@pytest.fixture(scope="package")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser's profile for one newcomer after the other."""
    with new_context(browser) as context:
        yield context


@pytest.fixture
def page(context: BrowserContext, served: Served) -> Iterator[Page]:
    with newcomer(context, served.url) as page:
        yield page
