"""Motion presets: each word stands for a motion bucket and a noise strength."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.components import Component

from svd_core.params import LIMITS, VideoParams
from svd_core.web.page.components import Checkbox, NumberField, RadioChoice
from svd_core.web.page.i18n import client_text

# 127 and 0.02 are what SVD is usually run with. Users report small motion of things at buckets up
# to some 20, more breakage above 127, and noise of 0.05 to 0.1 as what gets a still clip moving.
PRESETS: Mapping[str, tuple[int, float]] = {
    "still": (20, 0.02),
    "gentle": (70, 0.02),
    "lively": (127, 0.02),
    "wild": (200, 0.08),
}
DEFAULT_PRESET = "lively"

PRESET_RATIO = 1.6
"""From one word to the next, roughly."""

SET_SLIDERS = f"(word) => ({ {word: list(values) for word, values in PRESETS.items()} })[word]"
SET_PRESET = f"""(bucket, noise) => {{
    const words = {[[word, *values] for word, values in PRESETS.items()]};
    const found = words.find(([_, b, n]) => b === bucket && Math.abs(n - noise) < 1e-6);
    return found ? found[0] : null;
}}"""


def preset_choice() -> RadioChoice:
    return RadioChoice(
        [(str(client_text(f"motion_{word}")), word) for word in PRESETS],
        value=DEFAULT_PRESET,
        label=client_text("motion"),
        elem_id="motion",
        elem_classes=["svd-segments", "svd-line"],
    )


def bind_presets(words: RadioChoice, controls: Mapping[str, Component]) -> None:
    """Words move the sliders, and sliders find their word; all of it in the browser."""
    sliders: list[Any] = [controls["motion_bucket_id"], controls["noise_aug_strength"]]
    private: dict[str, Any] = {"api_visibility": "private"}
    words.input(None, words, sliders, js=SET_SLIDERS, **private)
    gr.on([slider.change for slider in sliders], None, sliders, words, js=SET_PRESET, **private)


def bind_seed(seed: NumberField, random: Checkbox) -> None:
    """Who types a seed means that one."""
    seed.input(None, None, random, js="() => [false]", api_visibility="private")


def increase_motion(params: VideoParams) -> VideoParams:
    """The obvious change towards more motion: the bucket, and where that is at its end, noise."""
    most = int(LIMITS["motion_bucket_id"].maximum)
    bucket, noise = params.motion_bucket_id, params.noise_aug_strength
    if bucket >= most:
        return replace(params, noise_aug_strength=round(min(noise + 0.05, 0.5), 2))
    return replace(
        params, motion_bucket_id=min(max(round(bucket * PRESET_RATIO), bucket + 20), most)
    )


def decrease_motion(params: VideoParams) -> VideoParams:
    """The obvious change towards less: noise first, if somebody added some, then the bucket."""
    usual = VideoParams.default("noise_aug_strength")
    if params.noise_aug_strength > usual:
        return replace(params, noise_aug_strength=usual)
    return replace(params, motion_bucket_id=max(round(params.motion_bucket_id / PRESET_RATIO), 1))
