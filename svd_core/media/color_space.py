"""Colour spaces named by code points, gamma or chromaticities, and their conversion to sRGB.

Other white points are adapted to D65 by the Bradford method, so that white stays white. HDR is
tone mapped by method A of ITU-R BT.2446-1, and colours outside sRGB are clipped. Reads no files;
`color_metadata.py` does. Arrays of light: (3, pixels), RGB.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
XY = tuple[float, float]
"""CIE 1931 chromaticity."""

SRGB_CURVE, PQ, HLG = 13, 16, 18
"""Transfer characteristics of H.273."""

HDR_WHITE = 203.0
"""Nits of white paper in HDR (ITU-R BT.2408)."""

MAX_HDR = 1000.0
"""Nits above which highlights are cut off: the nominal peak of HLG (ITU-R BT.2100)."""

SDR_PEAK = 100.0
PQ_PEAK = 10_000.0
VIDEO_GAMMA = 2.4
"""Exponent of displays for video (ITU-R BT.1886)."""

HLG_SYSTEM_GAMMA = 1.2
"""Exponent from scene to display light, for a peak of 1000 nits (ITU-R BT.2100)."""

CHUNK_PIXELS = 2**18
"""Pixels that are converted at a time, to stay in the processor's cache."""

ENCODING_STEPS = 2**16


class Primaries(NamedTuple):
    """Chromaticities of the three primaries of a display, and of its white."""

    red: XY
    green: XY
    blue: XY
    white: XY


D65: XY = (0.3127, 0.329)
C: XY = (0.31, 0.316)
SRGB = Primaries((0.64, 0.33), (0.3, 0.6), (0.15, 0.06), D65)
SMPTE_170M = Primaries((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), D65)
BT2020 = Primaries((0.708, 0.292), (0.17, 0.797), (0.131, 0.046), D65)
ADOBE_RGB = Primaries((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), D65)
ADOBE_GAMMA = 563 / 256

PRIMARIES: Mapping[int, Primaries] = {
    1: SRGB,
    4: Primaries((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), C),
    5: Primaries((0.64, 0.33), (0.29, 0.6), (0.15, 0.06), D65),
    6: SMPTE_170M,
    7: SMPTE_170M,
    8: Primaries((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), C),
    9: BT2020,
    10: Primaries((1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1 / 3, 1 / 3)),
    11: Primaries((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), (0.314, 0.351)),
    12: Primaries((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), D65),
    22: Primaries((0.63, 0.34), (0.295, 0.605), (0.155, 0.077), D65),
}
"""Table 2 of ITU-T H.273."""

BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


@dataclass(frozen=True)
class ColorSpace:
    """Colour space of an 8-bit RGB picture.

    `transfer`: code point of table 3 of H.273; unknown ones count as sRGB's. `gamma`: exponent
    instead of it. `peak`: nits of the brightest pixel of an HDR picture.
    """

    primaries: Primaries = SRGB
    transfer: int = SRGB_CURVE
    gamma: float | None = None
    peak: float = MAX_HDR

    @property
    def is_srgb(self) -> bool:
        """Whether nothing has to be converted."""
        return self.primaries == SRGB and self.gamma is None and self.transfer not in TRANSFERS

    @property
    def is_valid(self) -> bool:
        """Whether the primaries surround their white, and gamma is that of a display."""
        if self.gamma is not None and not 0.1 <= self.gamma <= 10:
            return False
        try:
            return bool(np.isfinite(_rgb_to_xyz(self.primaries)).all())
        except (np.linalg.LinAlgError, ZeroDivisionError, ValueError):
            return False

    def to_srgb(self, image: Image.Image) -> Image.Image:
        """An RGB picture of this space as sRGB."""
        codes = np.asarray(image).reshape(-1, 3)
        converted = np.empty_like(codes)
        encoding = _srgb_encoding()
        for start in range(0, len(codes), CHUNK_PIXELS):
            chunk = codes[start : start + CHUNK_PIXELS]
            linear = np.clip(self._to_linear_srgb(chunk), 0, 1)
            steps = (linear * (ENCODING_STEPS - 1) + 0.5).astype(np.uint16)
            converted[start : start + CHUNK_PIXELS] = np.take(encoding, steps).T
        return Image.fromarray(converted.reshape(image.height, image.width, 3))

    def _to_linear_srgb(self, codes: npt.NDArray[np.uint8]) -> Floats:
        """Light of pixels as a share of white; values outside 0..1 are beyond sRGB."""
        light = np.take(self._levels(), np.ascontiguousarray(codes.T))
        if self.transfer not in (PQ, HLG):
            return _apply(_conversion(self.primaries, SRGB), light)
        light = np.maximum(_apply(_conversion(self.primaries, BT2020), light), 0)
        if self.transfer == HLG:
            luminance = _luminance_weights(BT2020) @ light
            light = light * (MAX_HDR * np.power(luminance, HLG_SYSTEM_GAMMA - 1))
        # A picture no brighter than white paper has nothing to tone down.
        shown = tone_map(light, self.peak) if self.peak > HDR_WHITE else light / HDR_WHITE
        return _apply(_conversion(BT2020, SRGB), shown)

    def _levels(self) -> Floats:
        """Light of each of the 256 codes: of the scene for HLG, nits for PQ, else 0..1."""
        code = np.arange(256) / 255
        if self.gamma is not None:
            light = code**self.gamma
        else:
            light = TRANSFERS.get(self.transfer, srgb_to_linear)(code)
        return light.astype(np.float32)


def srgb_to_linear(code: Doubles) -> Doubles:
    """IEC 61966-2-1."""
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def pq_to_nits(signal: Doubles) -> Doubles:
    """EOTF of PQ (ITU-R BT.2100, table 4)."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    power = signal ** (1 / m2)
    return np.asarray(PQ_PEAK * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1))


def hlg_to_scene(signal: Doubles) -> Doubles:
    """Inverse OETF of HLG (ITU-R BT.2100, table 5)."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def smpte_240m_to_linear(code: Doubles) -> Doubles:
    return np.where(code < 0.0912, code / 4, ((code + 0.1115) / 1.1115) ** (1 / 0.45))


def digital_cinema_to_linear(code: Doubles) -> Doubles:
    """SMPTE ST 428-1; white has 48 nits."""
    return np.asarray(code**2.6 * 52.37 / 48)


def _power(exponent: float) -> Callable[[Doubles], Doubles]:
    return lambda code: np.asarray(code**exponent)


# Displays show video by their own exponent (ITU-R BT.1886), not the inverse of the camera's curve.
# Not in the table, and so shown as sRGB: 13 itself, 12, and the unused logarithmic 9 and 10.
TRANSFERS: Mapping[int, Callable[[Doubles], Doubles]] = {
    **dict.fromkeys((1, 6, 11, 14, 15), _power(VIDEO_GAMMA)),
    4: _power(2.2),
    5: _power(2.8),
    7: smpte_240m_to_linear,
    8: _power(1.0),
    PQ: pq_to_nits,
    17: digital_cinema_to_linear,
    HLG: hlg_to_scene,
}
"""Table 3 of ITU-T H.273: light for a code of 0..1."""


def tone_map(nits: Floats, peak: float) -> Floats:
    """HDR in BT.2020 primaries as SDR light of 0..1 (ITU-R BT.2446-1, section 4, method A).

    Brightness follows a curve over perceived lightness, and colours fade with it. Highlights
    beyond `peak` are darkened to it and keep their hue.
    """
    brightest = np.maximum(nits.max(axis=0), np.float32(peak))
    signal = np.power(nits / brightest, np.float32(1 / VIDEO_GAMMA))
    red_weight, green_weight, blue_weight = weights = _luminance_weights(BT2020)
    luma = weights @ signal
    hdr, sdr = (
        np.float32(1 + 32 * (top / PQ_PEAK) ** (1 / VIDEO_GAMMA)) for top in (peak, SDR_PEAK)
    )
    lightness = np.log1p((hdr - 1) * luma) / np.log(hdr)
    bent = (-1.151 * lightness + 2.7811) * lightness - 0.6302
    compressed = np.where(lightness < 0.9909, bent, 0.5 * lightness + 0.5)
    compressed = np.where(lightness <= 0.7399, 1.077 * lightness, compressed)
    shown = (np.power(sdr, compressed.astype(np.float32)) - 1) / (sdr - 1)
    fading = shown / np.maximum(np.float32(1.1) * luma, np.float32(1e-6))
    blue_difference = fading * (signal[2] - luma) / (2 - 2 * blue_weight)
    red_difference = fading * (signal[0] - luma) / (2 - 2 * red_weight)
    shown = shown - np.maximum(np.float32(0.1) * red_difference, 0)
    red = shown + (2 - 2 * red_weight) * red_difference
    blue = shown + (2 - 2 * blue_weight) * blue_difference
    green = (shown - red_weight * red - blue_weight * blue) / green_weight
    toned = np.clip(np.stack((red, green, blue)), 0, 1)
    return np.asarray(np.power(toned, np.float32(VIDEO_GAMMA)))


def _srgb_encoding() -> npt.NDArray[np.uint8]:
    """The sRGB code of light from 0 to 1 in equal steps (IEC 61966-2-1)."""
    light = np.linspace(0, 1, ENCODING_STEPS)
    code = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return (code * 255).round().astype(np.uint8)


def _apply(matrix: Floats, light: Floats) -> Floats:
    return light if matrix is _IDENTITY else np.asarray(matrix @ light, np.float32)


_IDENTITY: Floats = np.eye(3, dtype=np.float32)


def _conversion(source: Primaries, target: Primaries) -> Floats:
    """Matrix from linear light of `source` to that of `target`."""
    if source == target:
        return _IDENTITY
    matrix = np.linalg.inv(_rgb_to_xyz(target)) @ _adaptation(source.white, target.white)
    return (matrix @ _rgb_to_xyz(source)).astype(np.float32)


def _luminance_weights(primaries: Primaries) -> Floats:
    """Share of each channel in the luminance."""
    return np.asarray(_rgb_to_xyz(primaries)[1], np.float32)


def _rgb_to_xyz(primaries: Primaries) -> Doubles:
    """Matrix from linear light to CIE XYZ. Raises `LinAlgError` or `ZeroDivisionError`."""
    columns = np.array([_xyz(xy) for xy in primaries[:3]]).T
    strengths = np.linalg.solve(columns, _white_xyz(primaries.white))
    if strengths.min() <= 0:
        raise ValueError("white is outside of the triangle")
    return np.asarray(columns * strengths)


def _adaptation(source: XY, target: XY) -> Doubles:
    """Bradford matrix from one white to another, in CIE XYZ."""
    ratio = (BRADFORD @ _white_xyz(target)) / (BRADFORD @ _white_xyz(source))
    return np.asarray(np.linalg.inv(BRADFORD) @ (ratio[:, None] * BRADFORD))


def _xyz(xy: XY) -> tuple[float, float, float]:
    return xy[0], xy[1], 1 - xy[0] - xy[1]


def _white_xyz(xy: XY) -> Doubles:
    """White of luminance 1."""
    return np.array([part / xy[1] for part in _xyz(xy)])
