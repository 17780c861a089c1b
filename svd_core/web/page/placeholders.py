"""Placeholders of empty fields: the checkpoint's default values."""

from typing import Any

import gradio as gr
from gradio.events import Dependency

from svd_core.checkpoints.speed_modes import at_speed
from svd_core.errors import InvalidRequest
from svd_core.params import CHOICES
from svd_core.web.page.components import UNQUEUED_EVENT
from svd_core.web.page.controls import Changes
from svd_core.web.page.i18n import texts_for
from svd_core.web.page.page_state import PageState

FIELDS = ("num_inference_steps", "num_frames", "min_guidance_scale", "max_guidance_scale")


def bind_placeholders(opened: Dependency, state: PageState) -> None:
    """They follow the checkpoint and the speed. `opened`: event after which the controls have the
    values of the link."""
    controls = state.controls
    decisive: list[Any] = [controls["model"], controls["speed"]]

    def on_turn(model: Any, speed: Any, request: gr.Request) -> Changes:
        t = texts_for(request)
        try:
            checkpoint = state.catalog.get(model)
        except InvalidRequest:
            checkpoint = state.catalog.default  # it is said when the job is submitted
        if speed in CHOICES["speed"].words:
            checkpoint = at_speed(checkpoint, speed)
        return {
            controls[name]: gr.update(
                placeholder=t("automatic_number", number=f"{getattr(checkpoint, name):g}")
            )
            for name in FIELDS
        }

    for event in (opened.then, *(control.change for control in decisive)):
        event(on_turn, decisive, [controls[name] for name in FIELDS], **UNQUEUED_EVENT)
