"""First screen: photo, three sliders, seed, Generate and the video, without scrolling."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.visiting import done, generate, open_menu, open_tab, shot, visitor
from tests.fakes.engines import Served

CONTROLS = (
    "photo", "framing", "orientation", "fit", "motion", "motion_bucket_id", "noise_aug_strength",
    "fps", "seed", "random", "generate", "sheet", "stop", "video", "progress",
)  # fmt: skip

SCREENS = {
    "1366x768": (1366, 768, (*CONTROLS, "examples")),
    "1440x900": (1440, 900, (*CONTROLS, "examples")),
    "1920x1080": (1920, 1080, (*CONTROLS, "examples")),
    "1366x650": (1366, 650, ("photo", "framing", "generate", "stop", "video", "progress")),
}
"""Width, height, and what is wholly in sight. The last one is a laptop's window with its bars."""

PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True
}  # fmt: skip

OUT_OF_SIGHT = """(ids) => ids.filter((id) => {
    const box = document.getElementById(id).getBoundingClientRect();
    return !(box.width && box.height && box.left >= 0 && box.top >= 0
        && box.right <= innerWidth && box.bottom <= innerHeight);
})"""

COVERED = """(ids) => ids.filter((id) => {
    const part = document.getElementById(id), box = part.getBoundingClientRect();
    const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    return !(part.contains(top) || top.closest("#framing, #stage"));
})"""
"""Parts that are inside the window, but covered by something else."""

SMALL = """(least) => [...document.querySelectorAll(
    "button, input, textarea, select, summary, a[href], .svd-segments label"
)].filter((part) => {
    const target = part.closest(".svd-segments label, #random label") || part;
    const box = target.getBoundingClientRect();
    return box.width && part.checkVisibility({ visibilityProperty: true, opacityProperty: true })
        && box.height < least - 0.5;
}).map((part) => part.id || part.closest("[id]")?.id + " " + part.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def german(browser: Browser, served: Served) -> Iterator[Page]:
    """A page in the longer of the languages, for windows of any size."""
    with visitor(browser, served.url, locale="de-DE") as page:
        yield page


@pytest.fixture(scope="module")
def english(browser: Browser, served: Served) -> Iterator[Page]:
    with visitor(browser, served.url, locale="en-US") as page:
        yield page


@pytest.mark.parametrize("size", SCREENS)
@pytest.mark.parametrize("language", ["english", "german"])
def test_what_a_newcomer_needs_is_in_sight(
    request: pytest.FixtureRequest, size: str, language: str
) -> None:
    width, height, needed = SCREENS[size]
    page: Page = request.getfixturevalue(language)
    page.set_viewport_size({"width": width, "height": height})
    settled(page)
    assert page.evaluate(OUT_OF_SIGHT, needed) == []
    assert page.evaluate(COVERED, needed) == []
    assert _overflow(page) == 0
    if language == "english":
        shot(page, f"first-{size}")


def settled(page: Page) -> None:
    """Two frames after a change of size everything has its place."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_photo_and_generate_are_in_sight_on_a_phone(browser: Browser, served: Served) -> None:
    with visitor(browser, served.url, **PHONE) as page:
        shown = ["photo", "framing", "orientation", "fit", "motion", "generate", "sheet", "stop"]
        assert page.evaluate(OUT_OF_SIGHT, shown) == []
        assert page.evaluate(COVERED, shown) == []
        assert _overflow(page) == 0


@pytest.mark.parametrize("width", [390, 641, 768, 860, 1024, 1180, 1366, 1920])
def test_nothing_is_wider_than_the_screen(german: Page, width: int) -> None:
    german.set_viewport_size({"width": width, "height": 800})
    settled(german)
    assert _overflow(german) == 0


@pytest.mark.slow
def test_fingers_can_hit_everything_on_a_phone(browser: Browser, served: Served) -> None:
    """44 px. Left out are the player's own controls and Gradio's footer."""
    with visitor(browser, served.url, **PHONE) as page:
        generate(page)
        done(page)
        open_menu(page)
        open_tab(page, "history")
        small = page.evaluate(SMALL, 44)
        assert [part for part in small if not part.startswith(("video", "footer"))] == []


def test_the_stage_keeps_its_place(page: Page, served: Served) -> None:
    """Still, preview, drafts and player share one box, so that nothing jumps."""
    boxes = [page.locator("#video").bounding_box()]
    with served.work.held():
        generate(page)
        expect(page.get_by_role("img", name="Preview of the video in progress")).to_be_visible()
        boxes.append(page.locator("#forming").bounding_box())
    done(page)
    boxes.append(page.locator("#video").bounding_box())
    page.get_by_role("button", name="Try 4 seeds").click()
    expect(page.locator("#progress")).to_contain_text("Pick one to make it in full")
    boxes.append(page.locator("#forming").bounding_box())
    for box in boxes:
        assert box is not None
        assert box == pytest.approx(boxes[0], abs=1)


def test_from_an_opened_page_to_a_saved_video_without_scrolling(
    browser: Browser, served: Served
) -> None:
    with visitor(browser, served.url, viewport={"width": 1366, "height": 768}) as page:
        generate(page)
        done(page)
        save = page.get_by_role("button", name="Save video")
        expect(save).to_be_in_viewport(ratio=1)
        with page.expect_download() as download:
            save.click()
        assert download.value.suggested_filename.endswith(".mp4")
        assert page.evaluate("scrollY") == 0
        shot(page, "made-1366")


def test_a_typed_seed_is_the_one_that_is_used(page: Page, served: Served) -> None:
    seed = page.get_by_label("Seed", exact=True)
    expect(page.get_by_label("New seed every time")).to_be_checked()
    seed.press_sequentially("4242")
    expect(page.get_by_label("New seed every time")).not_to_be_checked()
    generate(page)
    done(page)
    assert served.work.requests[-1].params.seed == 4242


@pytest.mark.slow
def test_time_goes_on_between_two_events(page: Page, served: Served) -> None:
    """Inside a step that takes long, too: here no event comes at all."""
    page.evaluate(
        """() => {
            document.querySelector("#progress .prose").innerHTML = `<div class="svd-progress">
                <p class="svd-clock" data-elapsed="58.0" data-remaining="3.0"></p>
                <progress value="0.9"></progress></div>`;
        }"""
    )
    clock = page.locator("#progress .svd-clock")
    expect(clock).to_contain_text(re.compile(r"^(59 s|1 min \d s) so far · about [1-2] s left$"))
    expect(clock).to_contain_text(re.compile(r"^1 min \d s so far · almost there$"))
    page.evaluate("document.querySelector('.svd-clock').dataset.remaining = '-20'")
    expect(clock).to_contain_text("taking longer than expected")
    value = page.locator("#progress progress").get_attribute("value")
    assert value is not None
    assert 0.9 < page.evaluate("document.querySelector('#progress progress').value") < 1


def _overflow(page: Page) -> int:
    return max(0, int(page.evaluate("document.documentElement.scrollWidth - innerWidth")))
