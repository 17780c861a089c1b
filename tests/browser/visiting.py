"""What a visitor does on the page, and what tests look for there.

Pictures of what they see are written to `shots/` in this folder.
"""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect

from tests.fakes.engines import photo
from tests.fakes.work import moving

DESKTOP: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 360, "height": 780}

PATIENCE_MS = 30_000
"""Two busy cores take seconds to open a page; an idle machine never waits for this."""

SHOTS = Path(__file__).with_name("shots")


@contextmanager
def visitor(
    browser: Browser, url: str, home: str = "", script: str = "", known: str = "\n", **options: Any
) -> Iterator[Page]:
    """A tab of a new visitor. No request may leave the page's own origin, and the console must stay
    without errors, except for those with the text `known`. `script`: JavaScript that runs first."""
    context = new_context(browser, script, **options)
    try:
        with watched(context, home or url, known):
            page = context.new_page()
            open_page(page, url)
            yield page
            context.close()
    finally:
        context.close()


def new_context(browser: Browser, script: str = "", **options: Any) -> BrowserContext:
    context = browser.new_context(**{"viewport": DESKTOP} | options)
    context.add_init_script(script)
    context.set_default_timeout(PATIENCE_MS)
    return context


@contextmanager
def newcomer(context: BrowserContext, url: str, home: str = "") -> Iterator[Page]:
    """As `visitor`, in a browser that others had before: what it has loaded is there, and opens in
    half the time; what the page keeps in it is not."""
    (page, *others) = context.pages or [context.new_page()]
    for other in others:
        other.close()
    forget(page, home or url)
    try:
        with watched(context, home or url):
            open_page(page, url)
            yield page
    finally:  # unwatched, since what is cut off by leaving is logged as an error
        for left in context.pages:
            left.goto("about:blank")


def forget(page: Page, url: str) -> None:
    """Remove what the pages of `url` keep in the browser, and what it permits."""
    page.goto("about:blank")
    page.context.clear_permissions()
    kept = {"origin": url, "storageTypes": "cookies,local_storage,indexeddb"}
    session = page.context.new_cdp_session(page)
    session.send("Storage.clearDataForOrigin", kept)
    session.detach()


@contextmanager
def watched(context: BrowserContext, home: str, known: str = "\n") -> Iterator[None]:
    """Meanwhile all requests go to `home`, and the console stays without errors."""
    asked: list[str] = []
    said: list[str] = []
    listeners: dict[Any, Callable[[Any], None]] = {
        "request": lambda request: asked.append(request.url),
        "console": lambda entry: said.append(f"{entry.type}: {entry.text}"),
        "weberror": lambda error: said.append(f"error: {error.error}"),
    }
    for name, listener in listeners.items():
        context.on(name, listener)
    try:
        yield
    finally:
        for name, listener in listeners.items():
            context.remove_listener(name, listener)
    own = ("data:", "blob:", "about:", home)
    strange = [address for address in asked if not address.startswith(own)]
    assert strange == [], strange
    errors = [entry for entry in said if entry.startswith("error") and known not in entry]
    assert errors == [], errors


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
    expect(page.locator("#framing")).to_be_hidden()
    page.locator("#photo input[type=file]").set_input_files(path)
    expect(page.locator("#photo img")).to_be_visible()


def colourful(folder: Path, size: tuple[int, int] = (320, 180)) -> Path:
    return photo(folder / f"mine-{size[0]}x{size[1]}.png", size)


def hover(page: Page, point: tuple[float, float], *paths: Path) -> None:
    """Files out of the system, held over the page."""
    # Elements under the pointer get "enter" first, and "over" afterwards.
    _drag(page, point, paths, "dragEnter", "dragOver", "dragOver")


def drop(page: Page, point: tuple[float, float], *paths: Path) -> None:
    _drag(page, point, paths, "dragEnter", "dragOver", "dragOver", "drop")


def _drag(page: Page, point: tuple[float, float], paths: tuple[Path, ...], *steps: str) -> None:
    """As the browser itself does it."""
    files = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    for step in steps:
        about = {"type": step, "x": point[0], "y": point[1], "data": files}
        session.send("Input.dispatchDragEvent", about)
    session.detach()


def open_tab(page: Page, name: str) -> None:
    """A tab of the panels ("fine", "batch", "recipe", "code") or of the library ("history")."""
    page.locator(f"#{name}-button").click()


def open_menu(page: Page) -> None:
    """The menu below a finished video."""
    page.get_by_role("button", name="More actions and formats").click()


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
