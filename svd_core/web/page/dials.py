"""The controls of a video's parameters, by the core's names; ranges and help come from `LIMITS`."""

import gradio as gr
from gradio.components import Component

from svd_core.params import LIMITS, VideoParams
from svd_core.web.page.components import Choice, Dial, Entry

LABELS = {
    "seed": "Seed",
    "motion_bucket_id": "Motion",
    "noise_aug_strength": "Noise",
    "fps": "Frames per second",
    "playback_fps": "Playback rate",
    "num_frames": "Frames",
    "num_inference_steps": "Steps",
    "min_guidance_scale": "Guidance, first frame",
    "max_guidance_scale": "Guidance, last frame",
    "decode_chunk_size": "Frames decoded at once",
    "focus_x": "Crop, left to right",
    "focus_y": "Crop, top to bottom",
}
USEFUL = {"noise_aug_strength": 1.0, "fps": 30}
"""Where a slider ends though the limit is higher; the API takes the whole range."""

SHAPES = [("As the photo", "auto"), ("Landscape", "landscape"), ("Portrait", "portrait"),
          ("Square", "square")]  # fmt: skip
FITS = [("Crop to fill the frame", "crop"), ("Pad to keep it all", "pad")]


def main_dials() -> dict[str, Component]:
    """What most people want to turn. The seed is not rendered yet, to find its place beside."""
    dials: dict[str, Component] = {
        name: _slider(name) for name in ("motion_bucket_id", "noise_aug_strength", "fps")
    }
    usual = VideoParams.default("orientation")
    dials["orientation"] = Choice(SHAPES, value=usual, label="Shape", elem_id="orientation")
    dials["fit"] = Choice(FITS, value=VideoParams.default("fit"), label="Fit", elem_id="fit")
    return dials | {"seed": _entry("seed", "drawn for you", render=False)}


def fine_dials() -> dict[str, Component]:
    """The rest. An empty field means: the model's own value."""
    dials: dict[str, Component] = {}
    for pair in (
        ("num_inference_steps", "num_frames"),
        ("min_guidance_scale", "max_guidance_scale"),
        ("playback_fps", "decode_chunk_size"),
    ):
        with gr.Row():
            dials |= {name: _entry(name, "automatic") for name in pair}
    return dials | {name: _slider(name) for name in ("focus_x", "focus_y")}


def _slider(name: str) -> Dial:
    limit = LIMITS[name]
    return Dial(
        limit.minimum,
        min(limit.maximum, USEFUL.get(name, limit.maximum)),
        value=VideoParams.default(name),
        step=1 if limit.integer else 0.01,
        label=LABELS[name],
        info=_sentence(limit.help),
        elem_id=name,
        buttons=["reset"],
    )


def _entry(name: str, placeholder: str, render: bool = True) -> Entry:
    limit = LIMITS[name]
    return Entry(
        max_lines=1,
        label=LABELS[name],
        info=None if name == "seed" else _sentence(limit.help),
        placeholder=placeholder,
        elem_id=name,
        render=render,
    )


def _sentence(help_text: str) -> str:
    return help_text[0].upper() + help_text[1:] + "."
