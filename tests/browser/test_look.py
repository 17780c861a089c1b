"""How the page looks and reads: by day, by night, on a phone, in another language, by keyboard."""

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.visiting import (
    DESKTOP,
    PHONE,
    colourful,
    done,
    generate,
    open_menu,
    open_tab,
    shot,
    upload,
    visitor,
)
from tests.fakes.engines import Served

CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")
AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")

STOCK = {
    "aria-prohibited-attr",  # Gradio's empty picture has an aria-label and no role
    "color-contrast",  # contrast.js looks at it, without being misled by pictures behind text
}
"""Rules of axe that Gradio's own parts break, or that another test looks at."""

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": DESKTOP},
    "dark": {"viewport": DESKTOP, "color_scheme": "dark"},
    "phone": {"viewport": PHONE, "is_mobile": True, "has_touch": True},
}
PANELS = ("fine", "batch", "recipe", "code")


@pytest.mark.parametrize(
    "look", ["phone", *(pytest.param(each, marks=pytest.mark.slow) for each in ("light", "dark"))]
)
def test_every_part_is_readable_named_and_within_the_screen(
    browser: Browser, served: Served, look: str
) -> None:
    with visitor(browser, served.url, **LOOKS[look]) as page:
        shot(page, f"begin-{look}")
        generate(page)
        done(page)
        open_menu(page)
        open_tab(page, "history")
        for panel in PANELS:
            open_tab(page, panel)
            if panel == "code":
                code = page.locator("#snippets code").nth(1)
                expect(code).to_contain_text("import fal_client")
            page.wait_for_timeout(400)  # colours and panels change gradually
            shot(page, f"open-{panel}-{look}")
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
            assert page.evaluate(CONTRAST) == []
            assert _axe(page) == []


@pytest.mark.slow
def test_bad_contrast_would_be_found(page: Page) -> None:
    page.add_style_tag(content="#device p { color: #888 !important; }")
    assert any("demo model" in text for text in page.evaluate(CONTRAST))
    page.evaluate("document.querySelector('#generate').replaceChildren()")
    assert any("button-name" in finding for finding in _axe(page))


def test_on_a_phone_the_video_comes_into_view(browser: Browser, served: Served) -> None:
    with visitor(browser, served.url, **LOOKS["phone"]) as page, served.work.held():
        expect(page.locator("#progress")).not_to_be_in_viewport()
        expect(page.locator("#generate")).to_be_in_viewport(ratio=1)
        page.locator("#generate").tap()
        for part in ("#stage", "#progress", "#stop"):
            expect(page.locator(part)).to_be_in_viewport(ratio=1)
        page.locator("#stop").tap()
        expect(page.locator("#progress")).to_contain_text("Stopped")


def test_the_page_speaks_the_browsers_language(browser: Browser, served: Served) -> None:
    with visitor(browser, served.url, locale="de-AT") as page:
        expect(page.locator("#device")).to_contain_text("auf CPU")
        expect(page.get_by_label("Lebhaft")).to_be_checked()
        page.get_by_role("button", name="Video erstellen").click()
        expect(page.locator("#progress")).to_contain_text("Fertig nach 1,2 s")
        expect(page.locator("#summary")).to_contain_text("8 Bilder, 128 × 72")
        open_tab(page, "history")
        expect(page.locator("#tiles")).to_contain_text("Seed")
        shot(page, "german")
    with visitor(browser, served.url, locale="fr-FR") as page:
        expect(page.get_by_role("button", name="Generate")).to_be_visible()


def test_the_keyboard_reaches_everything_in_reading_order(page: Page, tmp_path: Path) -> None:
    upload(page, colourful(tmp_path, (300, 400)))  # whose crop can be moved
    expect(page.get_by_role("slider", name="Drag to choose")).to_be_visible()
    page.locator("#demo-switch").focus()
    page.keyboard.press("Shift+Tab")
    seen: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(FOCUSED))
        if seen[-1].startswith("decode_chunk_size"):
            break
    order = ["demo-switch", "photo", "framing", "orientation", "fit", "motion ",
             "motion_bucket_id", "noise_aug_strength", "fps", "seed", "random", "generate",
             "sheet", "video", "library", "examples", "panels", "speed", "num_inference_steps",
             "decode_chunk_size"]  # fmt: skip
    places = [next((i for i, at in enumerate(seen) if at.startswith(part)), -1) for part in order]
    assert -1 not in places, (order[places.index(-1)], seen)
    assert places == sorted(places), seen
    assert all(at.endswith("visible") for at in seen), seen


@pytest.mark.slow
def test_calm_is_respected(browser: Browser, served: Served) -> None:
    with visitor(browser, served.url, reduced_motion="reduce") as page:
        generate(page)
        done(page)
        open_tab(page, "history")
        expect(page.locator("#tiles video")).to_have_count(1)
        page.wait_for_timeout(500)
        assert page.evaluate("document.querySelector('#tiles video').paused")


@pytest.fixture
def own(browser: Browser, served: Served) -> Iterator[Page]:
    """A page in a browser of its own, since a stopped clock stays stopped."""
    with visitor(browser, served.url) as page:
        yield page


def test_demo_mode_shows_examples_and_nothing_else(own: Page) -> None:
    page = own
    page.get_by_role("button", name="Demo mode").click()
    stage = page.get_by_role("dialog")
    expect(stage).to_be_visible()
    page.wait_for_function("() => document.querySelector('#demo dialog video').currentTime > 0")
    page.screenshot(path=Path(__file__).with_name("shots") / "demo.png")
    box = stage.bounding_box()
    assert box is not None
    assert (box["width"], box["height"]) == (DESKTOP["width"], DESKTOP["height"])
    first = stage.locator("video").get_attribute("aria-label")
    expect(page.locator("#demo-files i")).to_have_count(2)
    page.clock.install()
    stage.get_by_role("button", name="Cat").click()
    expect(stage.locator("video")).not_to_have_attribute("aria-label", first or "")
    expect(stage.locator("video")).to_have_attribute("src", re.compile(r"\.4x\.mp4$"))
    page.clock.run_for(60_000)
    expect(stage.locator("video")).to_have_attribute("aria-label", first or "")
    page.keyboard.press("Escape")
    expect(stage).to_be_hidden()


FOCUSED = """() => {
    const at = document.activeElement;
    const unnamed = "[id^=component], [id^=range], [id^=html-], [id$=-button], input";
    const named = at.closest(`[id]:not(${unnamed})`);
    const style = getComputedStyle(at);
    const label = at.closest("label") ? getComputedStyle(at.closest("label")) : style;
    const ring = [style, label].some((s) => s.outlineStyle !== "none" && s.outlineWidth !== "0px");
    return `${named ? named.id : at.outerHTML.slice(0, 80)} ${ring ? "visible" : "HIDDEN"}`;
}"""


def _axe(page: Page) -> list[str]:
    """What axe-core finds, less what `STOCK` names."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")
    return [
        f"{rule['id']}: {node['html'][:160]}"
        for rule in found["violations"]
        if rule["id"] not in STOCK
        for node in rule["nodes"]
    ]
