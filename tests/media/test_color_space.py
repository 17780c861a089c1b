"""Colour spaces become sRGB by the formulas of their standards; HDR is toned down as ITU says."""

import math

import numpy as np
import pytest
from PIL import Image

from svd_core.media.color_space import (
    BT2020,
    HLG,
    PQ,
    PRIMARIES,
    SRGB,
    SRGB_CURVE,
    ColorSpace,
    Primaries,
    pq_to_nits,
)

RAMP = np.arange(256)
PEAK = 1000.0


def shown(space: ColorSpace, *colors: tuple[int, int, int]) -> list[tuple[int, ...]]:
    image = Image.new("RGB", (len(colors), 1))
    image.putdata(colors)
    return list(space.to_srgb(image).get_flattened_data())


def greys(space: ColorSpace) -> list[int]:
    """What each grey becomes; white and black do not tint it."""
    pixels = shown(space, *((v, v, v) for v in range(256)))
    assert all(max(pixel) - min(pixel) <= 1 for pixel in pixels)
    return [pixel[1] for pixel in pixels]


def pq_code(nits: float) -> int:
    return int(np.abs(pq_to_nits(RAMP / 255) - nits).argmin())


@pytest.mark.parametrize("primaries", PRIMARIES)
def test_white_and_black_stay(primaries: int) -> None:
    space = ColorSpace(PRIMARIES[primaries])
    assert shown(space, (255, 255, 255), (0, 0, 0)) == [(255, 255, 255), (0, 0, 0)]
    assert np.abs(np.array(greys(space)) - RAMP).max() <= 1


@pytest.mark.parametrize(
    ("primaries", "color", "expected"),
    [  # by hand from the matrices of EG 432-1 and BT.2087
        (12, (200, 60, 60), (217, 42, 52)),
        (12, (60, 160, 90), (0, 163, 82)),
        (9, (200, 60, 60), (247, 0, 53)),
        (9, (40, 70, 190), (0, 71, 199)),
    ],
)
def test_wide_primaries_become_those_of_srgb(
    primaries: int, color: tuple[int, int, int], expected: tuple[int, int, int]
) -> None:
    (found,) = shown(ColorSpace(PRIMARIES[primaries]), color)
    assert found == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2, 2.6])
def test_an_exponent_becomes_the_curve_of_srgb(gamma: float) -> None:
    light = (RAMP / 255) ** gamma
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert greys(ColorSpace(gamma=gamma)) == pytest.approx(255 * expected, abs=0.6)


def test_what_is_srgb_is_left_alone() -> None:
    assert ColorSpace().is_srgb
    assert ColorSpace(SRGB, 2).is_srgb
    assert ColorSpace(SRGB, 99).is_srgb
    assert not ColorSpace(SRGB, PQ).is_srgb
    assert not ColorSpace(SRGB, gamma=2.2).is_srgb
    assert not ColorSpace(BT2020, SRGB_CURVE).is_srgb


@pytest.mark.parametrize(
    "primaries",
    [
        Primaries((0, 0), (0, 0), (0, 0), (0, 0)),
        Primaries((0.3, 0.3), (0.3, 0.3), (0.3, 0.3), (0.3127, 0.329)),
        Primaries((0.64, 0.33), (0.3, 0.6), (0.15, 0.06), (0.9, 0.05)),
        Primaries((1e9, 0.33), (0.3, 0.6), (0.15, 0.06), (0.3127, 0)),
    ],
)
def test_primaries_of_no_display_are_recognized(primaries: Primaries) -> None:
    assert not ColorSpace(primaries).is_valid


@pytest.mark.parametrize("gamma", [0.0, 1e-9, 1e9, -2.0])
def test_an_exponent_of_no_display_is_recognized(gamma: float) -> None:
    assert not ColorSpace(gamma=gamma).is_valid


@pytest.mark.parametrize("primaries", PRIMARIES.values())
def test_the_primaries_of_the_standard_are_valid(primaries: Primaries) -> None:
    assert ColorSpace(primaries).is_valid


# -- HDR ----------------------------------------------------------------------------------------


def method_a(nits: tuple[float, float, float]) -> list[float]:
    """ITU-R BT.2446-1, section 4, method A, step by step for one pixel of BT.2020 in nits.

    Result: light of an SDR display, 0 to 1.
    """
    red, green, blue = ((value / PEAK) ** (1 / 2.4) for value in nits)
    luma = 0.2627 * red + 0.678 * green + 0.0593 * blue
    rho_hdr = 1 + 32 * (PEAK / 10_000) ** (1 / 2.4)
    rho_sdr = 1 + 32 * (100 / 10_000) ** (1 / 2.4)
    perceived = math.log(1 + (rho_hdr - 1) * luma) / math.log(rho_hdr)
    if perceived <= 0.7399:
        compressed = 1.0770 * perceived
    elif perceived < 0.9909:
        compressed = -1.1510 * perceived**2 + 2.7811 * perceived - 0.6302
    else:
        compressed = 0.5 * perceived + 0.5
    sdr = (rho_sdr**compressed - 1) / (rho_sdr - 1)
    factor = sdr / (1.1 * luma)
    cb, cr = factor * (blue - luma) / 1.8814, factor * (red - luma) / 1.4746
    sdr -= max(0.1 * cr, 0)
    shown = (sdr + 1.4746 * cr, sdr - 0.16455 * cb - 0.57135 * cr, sdr + 1.8814 * cb)
    return [min(max(value, 0), 1) ** 2.4 for value in shown]


TO_BT709 = ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187))
"""ITU-R BT.2407, from light of BT.2020 to light of BT.709."""


def encoded(light: list[float]) -> list[float]:
    """sRGB codes of light in BT.2020."""
    linear = [sum(m * v for m, v in zip(row, light, strict=True)) for row in TO_BT709]
    clipped = [min(max(value, 0), 1) for value in linear]
    return [
        255 * (12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055) for v in clipped
    ]


def pq_nits(code: int) -> float:
    """ITU-R BT.2100, table 4, reference EOTF."""
    power = (code / 255) ** (1 / 78.84375)
    ratio = max(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
    return 10_000 * ratio ** (1 / 0.1593017578125)


def hlg_nits(codes: tuple[int, int, int]) -> tuple[float, float, float]:
    """ITU-R BT.2100, table 5: inverse OETF, then the OOTF for a peak of 1000 nits."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = []
    for code in codes:
        signal = code / 255
        scene.append(signal**2 / 3 if signal <= 0.5 else (math.exp((signal - c) / a) + b) / 12)
    luminance = 0.2627 * scene[0] + 0.678 * scene[1] + 0.0593 * scene[2]
    red, green, blue = (1000 * luminance**0.2 * value for value in scene)
    return red, green, blue


MUTED = [
    (110, 90, 80), (140, 120, 60), (60, 90, 120), (150, 150, 150), (40, 35, 30), (170, 150, 140),
]  # fmt: skip


@pytest.mark.parametrize("color", MUTED)
def test_pq_is_toned_down_by_the_formula_of_itu(color: tuple[int, int, int]) -> None:
    red, green, blue = color
    expected = encoded(method_a((pq_nits(red), pq_nits(green), pq_nits(blue))))
    (found,) = shown(ColorSpace(BT2020, PQ), color)
    assert found == pytest.approx(expected, abs=1.5)


@pytest.mark.parametrize("color", [*MUTED, (240, 200, 180), (255, 255, 255), (200, 60, 60)])
def test_hlg_is_toned_down_by_the_formula_of_itu(color: tuple[int, int, int]) -> None:
    (found,) = shown(ColorSpace(BT2020, HLG), color)
    assert found == pytest.approx(encoded(method_a(hlg_nits(color))), abs=1.5)


def test_white_paper_is_as_bright_in_both_ways_of_hdr() -> None:
    """ITU-R BT.2408, table 1: 203 nits are 58% PQ and 75% HLG, and 26 nits, grey, both 38%."""
    pq, hlg = greys(ColorSpace(BT2020, PQ)), greys(ColorSpace(BT2020, HLG))
    assert pq[round(0.58 * 255)] == pytest.approx(hlg[round(0.75 * 255)], abs=3)
    assert pq[round(0.38 * 255)] == pytest.approx(hlg[round(0.38 * 255)], abs=3)
    assert 160 < pq[round(0.58 * 255)] < 200  # light, with room for highlights
    assert 60 < pq[round(0.38 * 255)] < 100


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_brighter_is_brighter_up_to_white(transfer: int) -> None:
    ramp = greys(ColorSpace(BT2020, transfer))
    assert ramp == sorted(ramp)
    assert (ramp[0], ramp[-1]) == (0, 255)
    assert ramp.index(255) > 190  # highlights of 1000 nits still differ


def test_highlights_beyond_the_peak_keep_their_hue() -> None:
    """4000 nits of orange, where clipping each channel would leave yellow."""
    orange = (pq_code(4000), pq_code(1200), pq_code(50))
    (red, green, blue), *_ = shown(ColorSpace(BT2020, PQ), orange)
    assert red == 255
    assert 100 < green < 215
    assert blue < 110


def test_a_picture_as_dark_as_paper_is_not_toned_down() -> None:
    """A screenshot on an HDR screen: white is white."""
    space = ColorSpace(BT2020, PQ, peak=203)
    assert shown(space, (pq_code(203),) * 3)[0] == pytest.approx((255,) * 3, abs=2)
    assert shown(space, (pq_code(203 * 0.2140),) * 3)[0] == pytest.approx((128,) * 3, abs=3)
