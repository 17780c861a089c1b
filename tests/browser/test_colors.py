"""Pictures have the colours that Chromium shows, however their files name them."""

import base64
from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from svd_core.media.color_space import HLG, PQ, PRIMARIES
from svd_core.media.image_decoding import decode
from tests.fakes.color_pictures import (
    P3_CHROMATICITIES,
    avif,
    bmp_with_profile,
    chromaticities,
    cicp,
    encoded,
    gamma,
    grey_profile,
    hdr_profile,
    light_level,
    p3_profile,
    png,
    tile_centers,
    tile_colors,
    tiles,
)

READ_PIXELS = """async ([url, places]) => {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(image, 0, 0);
  return places.map(([x, y]) => [...context.getImageData(x, y, 1, 1).data].slice(0, 3));
}"""

TRANSFERS = (1, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 17)
"""Those of pictures without HDR."""

EXACT: dict[str, tuple[str, bytes]] = {
    **{f"cICP {p}, 13": ("image/png", png(cicp(p, 13))) for p in PRIMARIES},
    **{f"cICP 1, {t}": ("image/png", png(cicp(1, t))) for t in TRANSFERS},
    "cICP 9, 14": ("image/png", png(cicp(9, 14))),
    "cICP 2, 2": ("image/png", png(cicp(2, 2))),
    "cICP of video": ("image/png", png(cicp(12, 13, full_range=0))),
    "cICP and iCCP": ("image/png", png(cicp(9, 13), icc_profile=p3_profile())),
    "iCCP": ("image/png", png(icc_profile=p3_profile())),
    "iCCP of grey with alpha": ("image/png", png(mode="LA", icc_profile=grey_profile(1.8))),
    "gAMA 1": ("image/png", png(gamma(1))),
    "gAMA 0.55": ("image/png", png(gamma(1 / 1.8))),
    "gAMA 0.45": ("image/png", png(gamma(0.45455))),
    "gAMA of grey": ("image/png", png(gamma(1), mode="L")),
    "gAMA and sRGB": ("image/png", png((b"sRGB", b"\0"), gamma(1))),
    "gAMA and cHRM": ("image/png", png(gamma(0.45455), chromaticities(P3_CHROMATICITIES))),
    "cHRM alone": ("image/png", png(chromaticities(P3_CHROMATICITIES))),
    "BMP": ("image/bmp", bmp_with_profile(p3_profile())),
    "WebP": ("image/webp", encoded(tiles(), "WEBP", lossless=True, icc_profile=p3_profile())),
    "AVIF 12, 13": ("image/avif", avif(12, 13)),
    "AVIF 9, 1": ("image/avif", avif(9, 1)),
    "AVIF 1, 1": ("image/avif", avif(1, 1)),
    "AVIF 1, 8": ("image/avif", avif(1, 8)),
    "AVIF 12, 2": ("image/avif", avif(12, 2)),
    "AVIF with ICC": (
        "image/avif",
        encoded(tiles(), "AVIF", quality=100, subsampling="4:4:4", icc_profile=p3_profile()),
    ),
}

HDR = {
    "cICP 9, PQ": ("image/png", png(cicp(9, PQ), mode="L")),
    "cICP 9, HLG": ("image/png", png(cicp(9, HLG), mode="L")),
    "cICP 9, PQ, paper": ("image/png", png(cicp(9, PQ), light_level(203), mode="L")),
    "iCCP": ("image/jpeg", encoded(tiles("L").convert("RGB"), "JPEG", quality=100,
                                   icc_profile=hdr_profile())),
}  # fmt: skip


@pytest.fixture(scope="module")
def canvas(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    yield page
    page.close()


def shown(page: Page, kind: str, data: bytes) -> list[list[int]]:
    url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    pixels: list[list[int]] = page.evaluate(READ_PIXELS, [url, tile_centers()])
    return pixels


@pytest.mark.parametrize(("kind", "data"), EXACT.values(), ids=EXACT)
def test_colours_are_those_of_the_browser(canvas: Page, kind: str, data: bytes) -> None:
    found = np.array(tile_colors(decode(data).image))
    assert np.abs(found - shown(canvas, kind, data)).max() <= 2


@pytest.mark.parametrize(("kind", "data"), HDR.values(), ids=HDR)
def test_hdr_is_about_as_bright_as_in_the_browser(canvas: Page, kind: str, data: bytes) -> None:
    """The browser has a curve of its own; greys differ by less than ten percent of the range."""
    found = np.array(tile_colors(decode(data).image))
    assert np.abs(found - shown(canvas, kind, data)).max() <= 25
