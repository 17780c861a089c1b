"""Speed of the page in Chromium: `python -m svd_core.benchmarks page`. A table, then JSON.

Other programs only ever add to a time, so the best of a few tries counts. `watched_percent` is
the processor time that a server without a model spends for a visitor who watches a video being
made, as a share of two cores. Its engine sleeps as long as the fastest GPUs compute. Needs
Playwright and Chromium.
"""

import io
import runpy
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from svd_core.benchmarks.load_clients import submit_body, time_video
from svd_core.benchmarks.server_process import APP, Server, StillEngine, running_server
from svd_core.benchmarks.targets import Target, make_parser, report
from svd_core.engine.preview import encode_webp
from svd_core.events import OnProgress, Progress, Stage
from svd_core.params import VideoParams
from svd_core.types import GenerationResult

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TARGETS = (
    Target("usable_s", "an opened page can be used after", 3, "s"),
    Target("framing_ms", "a photo of 12 megapixels is framed again after", 300, "ms"),
    Target("watched_percent", "a visitor who watches takes of two cores", 3, "%"),
)

TRIES = 3
STEPS, PREVIEWS, STEP_S = 25, 8, 0.2
"""A video as the page sees it from SVD-XT: steps, previews, and seconds of a step."""

TIMEOUT_MS = 60_000

FLAGS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu")
"""For root, Chromium runs only without its sandbox; /dev/shm is small in containers."""

MOVE = """(value) => new Promise((resolve) => {
    const slider = document.querySelector("#focus_y input[type=range]");
    const begun = performance.now();
    const place = () => document.querySelector("#framing .svd-window")?.style.top;
    const before = place();
    const watch = new MutationObserver(() => {
        if (!place() || place() === before) return;
        watch.disconnect();
        resolve(performance.now() - begun);
    });
    watch.observe(document.querySelector("#framing"), {
        subtree: true, childList: true, attributes: true,
    });
    slider.value = value;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    slider.dispatchEvent(new Event("change", { bubbles: true }));
})"""
"""Moves the slider of the crop; milliseconds until the window over the photo follows."""


class PacedEngine(StillEngine):
    """Stub engine that sleeps in each step, so that the page causes all of the work."""

    def generate(
        self, image: Image.Image, params: VideoParams, on_progress: OnProgress
    ) -> GenerationResult:
        pictures = np.stack([np.asarray(image, np.uint8)] * 8)
        for step in range(1, STEPS + 1):
            time.sleep(STEP_S)
            preview = encode_webp(pictures, 7) if step % (STEPS // PREVIEWS) == 0 else None
            on_progress(Progress(stage=Stage.DENOISING, step=step, total=STEPS, preview=preview))
        return super().generate(image, params, on_progress)


def main(argv: Sequence[str] | None = None) -> int:
    options = make_parser("page", __doc__).parse_args(argv)
    with running_server("-m", "svd_core.benchmarks.page") as server, _chromium() as browser:
        body = submit_body()
        time_video(server, body)  # warm-up
        figures = {
            "usable_s": min(_usable_s(browser, server) for _ in range(TRIES)),
            "framing_ms": _framing_ms(browser, server),
            "watched_percent": median(
                _watched_percent(browser, server, body) for _ in range(TRIES)
            ),
        }
    return report(TARGETS, figures, options.check)


@contextmanager
def _chromium() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright  # of tests/requirements.txt

    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=[*FLAGS])
        yield browser
        browser.close()


@contextmanager
def _opened(browser: "Browser", server: Server) -> "Iterator[Page]":
    """The page of a new visitor, once it can be used."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.locator("#framing figure").wait_for()
        page.locator("#generate:enabled").wait_for()
        yield page


def _usable_s(browser: "Browser", server: Server) -> float:
    begun = time.monotonic()
    with _opened(browser, server):
        return time.monotonic() - begun


def _framing_ms(browser: "Browser", server: Server) -> float:
    """For a photo of 12 megapixels, busier than photos are."""
    noise = np.random.default_rng(1).integers(0, 255, (75, 100, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((3000, 4000)).save(file, "JPEG", quality=90)
    photo = {"name": "large.jpg", "mimeType": "image/jpeg", "buffer": file.getvalue()}
    with _opened(browser, server) as page:
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Use your own photo").click()
        page.get_by_label("Landscape").check()
        chooser.value.set_files(photo)  # type: ignore[arg-type]
        page.locator("#framing [aria-orientation=vertical]").wait_for()
        return min(float(page.evaluate(MOVE, value)) for value in (0.1, 0.9, 0.3, 0.7, 0.5))


def _watched_percent(browser: "Browser", server: Server, body: bytes) -> float:
    begun = server.cpu_s()
    took = time_video(server, body).seconds
    alone = server.cpu_s() - begun
    with _opened(browser, server) as page:
        page.wait_for_timeout(1000)
        begun = server.cpu_s()
        page.locator("#generate").click()
        page.locator("#progress", has_text="Done in").wait_for()
        watched = server.cpu_s() - begun
    return 100 * (watched - alone) / took / 2


if __name__ == "__main__":
    runpy.run_path(str(APP))["main"](PacedEngine)
