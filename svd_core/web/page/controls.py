"""Controls of the video parameters, named as in the core; ranges come from `LIMITS`."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from svd_core.errors import InvalidRequest
from svd_core.params import CHOICES, LIMITS, VideoParams
from svd_core.web.page.components import ModelChoice, NumberField, RadioChoice, Slider
from svd_core.web.page.error_translation import translate
from svd_core.web.page.i18n import Texts, client_text

SLIDER_MAX = {"noise_aug_strength": 1.0, "fps": 30}
"""Where a slider ends though the limit is higher; the API takes the whole range."""

NUMBER_FIELDS = (
    "num_inference_steps", "num_frames", "playback_fps", "min_guidance_scale",
    "max_guidance_scale", "decode_chunk_size",
)  # fmt: skip
"""Fields where empty means the model's own value."""

WITHOUT_HINT = ("seed", "orientation", "fit", "focus_x", "focus_y", "interpolation")

Controls = Mapping[str, Component]
Changes = dict[Block, Any]
"""New values for some of the components; the others stay as they are."""


def framing_controls() -> dict[str, Component]:
    """Shape and fit in one row. The crop is moved on the photo itself, so its two sliders are
    hidden; they stay on the page because links, recipes and the API set them."""
    with gr.Row(elem_id="framing-row"):
        controls: dict[str, Component] = {
            "orientation": radio_choice("orientation", scale=3),
            "fit": radio_choice("fit", scale=2),
        }
    return controls | {name: slider(name, visible="hidden") for name in ("focus_x", "focus_y")}


def motion_controls() -> dict[str, Component]:
    return {name: slider(name) for name in ("motion_bucket_id", "noise_aug_strength", "fps")}


def advanced_controls(models: Sequence[str], speeds: Sequence[str]) -> dict[str, Component]:
    """The rest. An empty field means: the model's own value. `models`, `speeds`: what there is to
    choose from, the usual one first."""
    told = "speed" if "turbo" in speeds else "speed_two"
    with gr.Row(elem_id="model-and-speed"):
        controls: dict[str, Component] = {
            "model": model_choice("model", models),
            "speed": radio_choice("speed", speeds, told),
        }
    with gr.Row(elem_id="numbers"):
        return controls | {name: number_field(name, "automatic") for name in NUMBER_FIELDS}


def playback_control() -> dict[str, Component]:
    """The switch for in-between frames, which is shown with a video; see `playback`."""
    return {"interpolation": radio_choice("interpolation", visible="hidden")}


def radio_choice(
    name: str, words: Sequence[str] = (), told: str = "", **options: Any
) -> RadioChoice:
    """`words`: those that this server can do, if not all. `told`: whose hint is theirs."""
    return RadioChoice(
        [(str(client_text(f"{name}_{word}")), word) for word in words or CHOICES[name].words],
        value=VideoParams.default(name),
        label=client_text(name),
        info=hint(told or name),
        elem_id=name,
        elem_classes=["svd-segments"],
        **options,
    )


def model_choice(name: str, names: Sequence[str]) -> ModelChoice:
    """Not to be seen where there is one alone, which may turn out to be called otherwise."""
    several = len(names) > 1
    return ModelChoice(
        list(names) if several else [],
        value=names[0] if several else None,
        label=client_text(name),
        info=hint(name),
        visible=several,
        elem_id=name,
        elem_classes=["svd-segments"],
    )


def slider(name: str, **options: Any) -> Slider:
    limit = LIMITS[name]
    return Slider(
        limit.minimum,
        min(limit.maximum, SLIDER_MAX.get(name, limit.maximum)),
        value=VideoParams.default(name),
        step=1 if limit.integer else 0.01,
        label=client_text(name),
        info=hint(name),
        elem_id=name,
        elem_classes=["svd-line"],
        buttons=["reset"],
        **options,
    )


def number_field(name: str, placeholder: str) -> NumberField:
    return NumberField(
        max_lines=1,
        label=client_text(name),
        info=hint(name),
        placeholder=client_text(placeholder),
        elem_id=name,
    )


def hint(name: str) -> Any:
    """What turning it costs."""
    return None if name in WITHOUT_HINT else str(client_text(f"{name}_hint"))


def set_values(params: VideoParams, controls: Controls, changes: Changes | None = None) -> Changes:
    """The dials as `params` say, besides other `changes`."""
    told = dict(changes or {})
    for name, value in params.to_mapping().items():
        if name == "interpolation":
            continue  # it belongs to the video in the player
        update = told.get(controls[name]) or gr.update()
        told[controls[name]] = update | {"value": str(value) if name == "seed" else value}
    return told


def mark_invalid(error: InvalidRequest, controls: Controls, t: Texts) -> Changes:
    """The field that is wrong says so itself."""
    wrong = controls.get(error.field)
    return {} if wrong is None else {wrong: error_update(wrong, translate(error.message, t))}


def error_update(control: Component, sentence: str) -> Any:
    return gr.update(info=sentence, elem_classes=[*_looks(control), "svd-wrong"])


def clear_errors(controls: Controls) -> Changes:
    """Nothing is wrong any more."""
    return {
        control: gr.update(info=control.info, elem_classes=_looks(control))
        for control in controls.values()
    }


def _looks(control: Component) -> list[str]:
    return list(control.elem_classes or [])
