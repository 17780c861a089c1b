"""The controls of a video's parameters, by the core's names; ranges come from `LIMITS`."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from svd_core.errors import InvalidRequest
from svd_core.params import CHOICES, LIMITS, VideoParams
from svd_core.web.page.components import Choice, Dial, Entry, Pick
from svd_core.web.page.error_translation import core
from svd_core.web.page.i18n import Texts, fixed

USEFUL = {"noise_aug_strength": 1.0, "fps": 30}
"""Where a slider ends though the limit is higher; the API takes the whole range."""

NUMBERS = (
    "num_inference_steps", "num_frames", "playback_fps", "min_guidance_scale",
    "max_guidance_scale", "decode_chunk_size",
)  # fmt: skip
"""Fields where empty means the model's own value."""

WITHOUT_HINT = ("seed", "orientation", "fit", "focus_x", "focus_y", "interpolation")

Dials = Mapping[str, Component]
Changes = dict[Block, Any]
"""New values for some of the components; the others stay as they are."""


def framing_dials() -> dict[str, Component]:
    """Shape and fit in one row. The crop is moved on the photo itself, so its two sliders are
    hidden; they stay on the page because links, recipes and the API set them."""
    with gr.Row(elem_id="framing-row"):
        dials: dict[str, Component] = {
            "orientation": choice("orientation", scale=3),
            "fit": choice("fit", scale=2),
        }
    return dials | {name: slider(name, visible="hidden") for name in ("focus_x", "focus_y")}


def motion_dials() -> dict[str, Component]:
    return {name: slider(name) for name in ("motion_bucket_id", "noise_aug_strength", "fps")}


def fine_dials(models: Sequence[str], speeds: Sequence[str]) -> dict[str, Component]:
    """The rest. An empty field means: the model's own value. `models`, `speeds`: what there is to
    choose from, the usual one first."""
    told = "speed" if "turbo" in speeds else "speed_two"
    with gr.Row(elem_id="model-and-speed"):
        dials: dict[str, Component] = {
            "model": pick("model", models),
            "speed": choice("speed", speeds, told),
        }
    with gr.Row(elem_id="numbers"):
        return dials | {name: entry(name, "automatic") for name in NUMBERS}


def playback_dial() -> dict[str, Component]:
    """The switch for in-between frames, which is shown with a video; see `playback`."""
    return {"interpolation": choice("interpolation", visible="hidden")}


def choice(name: str, words: Sequence[str] = (), told: str = "", **options: Any) -> Choice:
    """`words`: those that this server can do, if not all. `told`: whose hint is theirs."""
    return Choice(
        [(str(fixed(f"{name}_{word}")), word) for word in words or CHOICES[name].words],
        value=VideoParams.default(name),
        label=fixed(name),
        info=hint(told or name),
        elem_id=name,
        elem_classes=["svd-segments"],
        **options,
    )


def pick(name: str, names: Sequence[str]) -> Pick:
    """Not to be seen where there is one alone, which may turn out to be called otherwise."""
    several = len(names) > 1
    return Pick(
        list(names) if several else [],
        value=names[0] if several else None,
        label=fixed(name),
        info=hint(name),
        visible=several,
        elem_id=name,
        elem_classes=["svd-segments"],
    )


def slider(name: str, **options: Any) -> Dial:
    limit = LIMITS[name]
    return Dial(
        limit.minimum,
        min(limit.maximum, USEFUL.get(name, limit.maximum)),
        value=VideoParams.default(name),
        step=1 if limit.integer else 0.01,
        label=fixed(name),
        info=hint(name),
        elem_id=name,
        elem_classes=["svd-line"],
        buttons=["reset"],
        **options,
    )


def entry(name: str, placeholder: str) -> Entry:
    return Entry(
        max_lines=1,
        label=fixed(name),
        info=hint(name),
        placeholder=fixed(placeholder),
        elem_id=name,
    )


def hint(name: str) -> Any:
    """What turning it costs."""
    return None if name in WITHOUT_HINT else str(fixed(f"{name}_hint"))


def shown(params: VideoParams, dials: Dials, changes: Changes | None = None) -> Changes:
    """The dials as `params` say, besides other `changes`."""
    told = dict(changes or {})
    for name, value in params.to_mapping().items():
        if name == "interpolation":
            continue  # it belongs to the video in the player
        update = told.get(dials[name]) or gr.update()
        told[dials[name]] = update | {"value": str(value) if name == "seed" else value}
    return told


def marked(error: InvalidRequest, dials: Dials, say: Texts) -> Changes:
    """The field that is wrong says so itself."""
    wrong = dials.get(error.field)
    return {} if wrong is None else {wrong: wrong_with(wrong, core(error.message, say))}


def wrong_with(dial: Component, sentence: str) -> Any:
    return gr.update(info=sentence, elem_classes=[*_looks(dial), "svd-wrong"])


def unmarked(dials: Dials) -> Changes:
    """Nothing is wrong any more."""
    return {dial: gr.update(info=dial.info, elem_classes=_looks(dial)) for dial in dials.values()}


def _looks(dial: Component) -> list[str]:
    return list(dial.elem_classes or [])
