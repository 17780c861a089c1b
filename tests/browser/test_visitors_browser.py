"""What a visitor's browser lacks, and what people type in the way of their country."""

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.visiting import done, generate, open_tab, visitor
from tests.fakes.engines import Served

NO_DEVICES = "Object.defineProperty(navigator, 'mediaDevices', { value: undefined });"
NO_CLIPBOARD = "Object.defineProperty(navigator, 'clipboard', { value: undefined });"
DEVICES = "if (navigator.mediaDevices) navigator.mediaDevices.enumerateDevices = async () => "
CAMERA = f"{DEVICES} [{{ kind: 'videoinput' }}];"
MICROPHONE = f"{DEVICES} [{{ kind: 'audioinput' }}];"
REFUSED = f"{DEVICES} {{ throw new Error('no'); }};"
BLOCKED = """Object.defineProperty(window, 'localStorage', {
    get() { throw new DOMException('localStorage is blocked.', 'SecurityError'); },
});"""
FULL = "Storage.prototype.setItem = () => { throw new DOMException('', 'QuotaExceededError'); };"
GRADIOS_OWN = "localStorage"
"""Part of what Gradio writes to the console."""

HUMAN_MS = 30
"""Milliseconds between two keys. Gradio sets the field again after each, so faster ones collide."""

BLOCKED_NOTE = "Your browser blocks site data"


@pytest.mark.parametrize(
    ("script", "camera", "clipboard"),
    [
        (CAMERA, True, True),
        pytest.param(MICROPHONE, False, True, marks=pytest.mark.slow),
        pytest.param(REFUSED, False, True, marks=pytest.mark.slow),
        (f"{NO_DEVICES} {NO_CLIPBOARD}", False, False),  # plain HTTP
    ],
)
def test_only_sources_of_photos_that_work_are_shown(
    browser: Browser, served: Served, script: str, camera: bool, clipboard: bool
) -> None:
    with visitor(browser, served.url, script=script) as page:
        photo = page.locator("#photo")
        expect(photo.get_by_role("button", name="Use your own photo")).to_be_visible()
        for name, shown in (
            ("Take a photo with the camera", camera), ("Paste a photo", clipboard)
        ):  # fmt: skip
            expect(photo.get_by_label(name)).to_have_count(1)
            expect(photo.get_by_label(name)).to_be_visible(visible=shown)


@pytest.mark.parametrize("script", [BLOCKED, pytest.param(FULL, marks=pytest.mark.slow)])
def test_blocked_storage_is_told(browser: Browser, served: Served, script: str) -> None:
    with visitor(browser, served.url, script=script, known=GRADIOS_OWN) as page:
        expect(page.locator("#no-storage")).to_contain_text(BLOCKED_NOTE)
        generate(page)
        done(page)


@pytest.mark.slow
def test_blocked_storage_is_told_in_german(browser: Browser, served: Served) -> None:
    with visitor(browser, served.url, script=BLOCKED, known=GRADIOS_OWN, locale="de") as page:
        expect(page.locator("#no-storage")).to_contain_text("Ihr Browser blockiert")


def test_storage_that_works_is_not_mentioned(page: Page) -> None:
    expect(page.locator("#no-storage")).to_be_hidden()
    assert page.evaluate("Object.keys(localStorage).filter((key) => key === 'svd-check')") == []


@pytest.mark.parametrize("locale", [pytest.param("en-US", marks=pytest.mark.slow), "de-DE"])
def test_a_decimal_comma_is_understood(browser: Browser, served: Served, locale: str) -> None:
    with visitor(browser, served.url, locale=locale, permissions=["clipboard-write"]) as page:
        noise = page.locator("#noise_aug_strength input[type=number]")
        noise.click()
        for text in ("0,05", "0.07", "0,04"):
            page.keyboard.press("ControlOrMeta+a")
            page.keyboard.type(text, delay=HUMAN_MS)
            expect(noise).to_have_value(f"0.{text[-2:]}")
        page.evaluate("navigator.clipboard.writeText(' 0,06 ')")
        page.keyboard.press("ControlOrMeta+a")
        page.keyboard.press("ControlOrMeta+v")
        expect(noise).to_have_value("0.06")
        page.keyboard.press("Tab")
        open_tab(page, "fine")
        page.locator("#max_guidance_scale input, #max_guidance_scale textarea").fill("2,5")
        page.locator("#seed input, #seed textarea").fill("4.294.967.295")
        page.locator("#random input").uncheck()
        page.locator("#generate").click()
        expect(page.locator("#result")).to_be_visible()
    params = served.work.requests[-1].params
    assert (params.noise_aug_strength, params.max_guidance_scale) == (0.06, 2.5)
    assert params.seed == 4_294_967_295


TYPED = {"0，05": "0.05", "０．０６": "0.06", "0。07": "0.07", "٠٫٠٨": "0.08"}
PASTED = TYPED | {
    "noise 0,05": "0.05", "0,06 %": "0.06", "7 frames": "7", "\u200e0.07\u200f": "0.07",
    "1e-2": "1e-2", "seed: 9": "9",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "locale",
    [*(pytest.param(each, marks=pytest.mark.slow) for each in ("de-DE", "ja-JP")), "en-US"],
)
def test_numbers_of_other_keyboards_and_with_units(
    browser: Browser, served: Served, locale: str
) -> None:
    """Chromium drops what it does not know, so that 0，05 would be 5 and 7 frames nothing."""
    with visitor(browser, served.url, locale=locale, permissions=["clipboard-write"]) as page:
        noise = page.locator("#noise_aug_strength input[type=number]")
        noise.click()
        for text, value in TYPED.items():
            page.keyboard.press("ControlOrMeta+a")
            page.keyboard.type(text, delay=HUMAN_MS)
            expect(noise).to_have_value(value)
        for text, value in PASTED.items():
            page.evaluate("text => navigator.clipboard.writeText(text)", text)
            page.keyboard.press("ControlOrMeta+a")
            page.keyboard.press("ControlOrMeta+v")
            expect(noise).to_have_value(value)
