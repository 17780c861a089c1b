"""Controls of the video parameters, named as in the core; ranges come from `PARAMETERS`.

A motion preset is a word that stands for a motion bucket and a noise strength. An empty number
field takes the checkpoint's own value, which its placeholder shows.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component
from gradio.events import Dependency

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.checkpoints.speed_modes import at_speed
from svd_core.errors import InvalidRequest
from svd_core.messages import DEFAULT_LANGUAGE
from svd_core.params import PARAMETERS, VideoParams
from svd_core.web.page.components import (
    UNQUEUED_EVENT,
    ModelChoice,
    NumberField,
    RadioChoice,
    Slider,
)
from svd_core.web.page.i18n import client_text, languages, texts_for

SLIDER_MAX = {"noise_aug_strength": 1.0, "fps": 30}
"""Ends of sliders that stop below the limit; the API takes the whole range."""

NUMBER_FIELDS = (
    "num_inference_steps", "num_frames", "playback_fps", "min_guidance_scale",
    "max_guidance_scale", "decode_chunk_size",
)  # fmt: skip
"""Fields that take the checkpoint's own value if they are empty."""

PLACEHOLDER_FIELDS = (
    "num_inference_steps", "num_frames", "min_guidance_scale", "max_guidance_scale",
)  # fmt: skip
"""Number fields whose default is a property of the checkpoint."""

# 127 and 0.02 are SVD's usual values. Users report little motion at buckets up to about 20, and
# more broken shapes above 127. Noise of 0.05 to 0.1 gets a still clip moving.
PRESETS: Mapping[str, tuple[int, float]] = {
    "still": (20, 0.02),
    "gentle": (70, 0.02),
    "lively": (127, 0.02),
    "wild": (200, 0.08),
}
DEFAULT_PRESET = "lively"

SET_SLIDERS = f"(word) => ({ {word: list(values) for word, values in PRESETS.items()} })[word]"
SET_PRESET = f"""(bucket, noise) => {{
    const presets = {[[word, *values] for word, values in PRESETS.items()]};
    const preset = presets.find(([_, b, n]) => b === bucket && Math.abs(n - noise) < 1e-6);
    return preset ? preset[0] : null;
}}"""

Controls = Mapping[str, Component]
Inputs = dict[Component, Any]
"""Values of an event's input components when the event begins."""

Changes = dict[Block, Any]
"""New values for some of the components; the others stay as they are."""

SKIP: Changes = gr.skip()
"""No change at all. An empty dict would be an error."""


def preset_choice() -> RadioChoice:
    """Bar of motion presets."""
    options = _options("motion")
    return segments("motion", tuple(PRESETS), DEFAULT_PRESET, "svd-line", **options)


def framing_controls() -> dict[str, Component]:
    """Shape and fit in one row.

    The crop is moved on the photo itself, so its two sliders are hidden. They stay on the page
    because links, recipes and the API set them.
    """
    with gr.Row(elem_id="framing-row"):
        controls: dict[str, Component] = {
            "orientation": radio_choice("orientation", scale=3),
            "fit": radio_choice("fit", scale=2),
        }
    return controls | {name: slider(name, visible="hidden") for name in ("focus_x", "focus_y")}


def advanced_controls(models: Sequence[str], speeds: Sequence[str]) -> dict[str, Component]:
    """Checkpoint, speed and number fields. `models`, `speeds`: the choices, the default first."""
    hint_key = "speed" if "turbo" in speeds else "speed_two"
    with gr.Row(elem_id="model-and-speed"):
        controls: dict[str, Component] = {
            "model": model_choice(models),
            "speed": radio_choice("speed", speeds, hint_key),
        }
    with gr.Row(elem_id="numbers"):
        return controls | {name: number_field(name, "automatic") for name in NUMBER_FIELDS}


def radio_choice(
    name: str, words: Sequence[str] = (), hint_key: str = "", **options: Any
) -> RadioChoice:
    """Bar of a parameter's words. `words`: the ones this server offers, by default all of them."""
    words, more = words or PARAMETERS[name].words, _options(name, hint_key) | options
    return segments(name, words, VideoParams.default(name), **more)


def segments(
    name: str, words: Sequence[str], value: str, *css_classes: str, **options: Any
) -> RadioChoice:
    """Bar of a few words; the text of each is `name_word`."""
    return RadioChoice(
        [(str(client_text(f"{name}_{word.replace('-', '')}")), word) for word in words],
        value=value,
        elem_classes=["svd-segments", *css_classes],
        **options,
    )


def model_choice(names: Sequence[str]) -> ModelChoice:
    """Choice of a checkpoint, hidden if there is only one.

    A single one is left out of the choices, because its name may change when it is loaded.
    """
    several = len(names) > 1
    return ModelChoice(
        list(names) if several else [],
        value=names[0] if several else None,
        visible=several,
        elem_classes=["svd-segments"],
        **_options("model"),
    )


def slider(name: str, **options: Any) -> Slider:
    """Slider of a parameter, as far as `SLIDER_MAX` or its limit."""
    limit = PARAMETERS[name]
    return Slider(
        limit.minimum,
        min(limit.maximum, SLIDER_MAX.get(name, limit.maximum)),
        value=VideoParams.default(name),
        step=1 if limit.integer else 0.01,
        elem_classes=["svd-line"],
        buttons=["reset"],
        **_options(name),
        **options,
    )


def number_field(name: str, placeholder: str) -> NumberField:
    """Number field. `placeholder`: the key of its text."""
    return NumberField(max_lines=1, placeholder=client_text(placeholder), **_options(name))


def _options(name: str, hint_key: str = "") -> dict[str, Any]:
    """Label, hint and id of a control. The hint, if any, says what the control does and costs."""
    key = f"{hint_key or name}_hint"
    hint = str(client_text(key)) if key in languages()[DEFAULT_LANGUAGE].sentences else None
    return {"label": client_text(name), "info": hint, "elem_id": name}


def bind_presets(presets: RadioChoice, controls: Controls) -> None:
    """Let presets move the sliders and sliders choose their preset, all of it in the browser."""
    sliders: list[Any] = [controls["motion_bucket_id"], controls["noise_aug_strength"]]
    private: dict[str, Any] = {"api_visibility": "private"}
    presets.input(None, presets, sliders, js=SET_SLIDERS, **private)
    gr.on([slider.change for slider in sliders], None, sliders, presets, js=SET_PRESET, **private)


def bind_placeholders(
    opened: Dependency, controls: Controls, catalog: Callable[[], ModelCatalog]
) -> None:
    """Let the placeholders of empty fields follow the checkpoint and the speed.

    `opened`: event after which the controls have the values of the link.
    """
    inputs: list[Any] = [controls["model"], controls["speed"]]
    fields = [controls[name] for name in PLACEHOLDER_FIELDS]

    def on_change(model: Any, speed: Any, request: gr.Request) -> Changes:
        t = texts_for(request)
        try:
            checkpoint = catalog().get(model)
        except InvalidRequest:
            checkpoint = catalog().default  # the error is shown when the job is submitted
        if speed in PARAMETERS["speed"].words:
            checkpoint = at_speed(checkpoint, speed)
        return {
            controls[name]: gr.update(
                placeholder=t("automatic_number", number=f"{getattr(checkpoint, name):g}")
            )
            for name in PLACEHOLDER_FIELDS
        }

    for event in (opened.then, *(control.change for control in inputs)):
        event(on_change, inputs, fields, **UNQUEUED_EVENT)


def error_update(control: Component, sentence: str) -> Any:
    """Update that shows `sentence` in place of the control's hint."""
    return gr.update(info=sentence, elem_classes=[*_css_classes(control), "svd-wrong"])


def clear_errors(controls: Controls) -> Changes:
    """Every control without an error, with its hint again."""
    return {
        control: gr.update(info=control.info, elem_classes=_css_classes(control))
        for control in controls.values()
    }


def _css_classes(control: Component) -> list[str]:
    return list(control.elem_classes or [])
