"""What an empty field comes to: the checkpoint's own number, shown in the field itself."""

from typing import Any

import gradio as gr
from gradio.events import Dependency

from svd_core.checkpoints.speed_modes import at_speed
from svd_core.errors import InvalidRequest
from svd_core.params import CHOICES
from svd_core.web.page.controls import Changes
from svd_core.web.page.i18n import texts_for
from svd_core.web.page.page_events import QUICK
from svd_core.web.page.page_state import Studio

NAMES = ("num_inference_steps", "num_frames", "min_guidance_scale", "max_guidance_scale")


def wire_automatic(opened: Dependency, studio: Studio) -> None:
    """They follow the checkpoint and the speed. `opened`: the dials say what the link says."""
    dials = studio.dials
    decisive: list[Any] = [dials["model"], dials["speed"]]

    def on_turn(model: Any, speed: Any, request: gr.Request) -> Changes:
        say = texts_for(request)
        try:
            checkpoint = studio.offer.named(model)
        except InvalidRequest:
            checkpoint = studio.offer.usual  # it is said when the job is submitted
        if speed in CHOICES["speed"].words:
            checkpoint = at_speed(checkpoint, speed)
        return {
            dials[name]: gr.update(
                placeholder=say("automatic_number", number=f"{getattr(checkpoint, name):g}")
            )
            for name in NAMES
        }

    for event in (opened.then, *(dial.change for dial in decisive)):
        event(on_turn, decisive, [dials[name] for name in NAMES], **QUICK)
