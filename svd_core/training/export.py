"""Export of training state to the checkpoint folder that the app, or plain diffusers, loads."""

from pathlib import Path
from typing import Any

import torch

from svd_core.errors import SvdError
from svd_core.training import architecture, position_net
from svd_core.training.model_card import model_card
from svd_core.training.stages import TrainingContext

DIALS: dict[str, Any] = {
    "sizes": [list(size) for size in architecture.SIZES],
    "num_frames": architecture.NUM_FRAMES,
    "num_inference_steps": 1,
    "min_guidance_scale": 1.0,
    "max_guidance_scale": 1.0,
    "half_precision_on_cpu": True,
    "single_precision_unet": True,
}
"""What the app takes as the model's own values; guidance 1 means one pass of the UNet a step."""

MAX_COORDINATE_ERROR = 0.375
"""Cells by which coordinates may be wrong, so that `motion_model` still finds the right whole
number."""


def export(context: TrainingContext, folder: Path) -> None:
    """Write the averaged weights of all courses into checkpoint `folder`.

    Raises `SvdError` if a course is missing that the checkpoint cannot do without, or if the
    coordinates are not yet good enough for every cell of every size.
    """
    for course in ("position", "scene", "decoder"):
        if not (context.state / f"{course}.pt").exists():
            raise SvdError(f"{course}.pt is missing in {context.state}: train that course first.")
    nets = context.nets()
    with torch.no_grad():
        worst = max(float(error.abs().max()) for error in position_net.errors(nets["unet"]))
    if worst > MAX_COORDINATE_ERROR:
        raise SvdError(
            f"A coordinate is off by {worst:.2f} cells, more than {MAX_COORDINATE_ERROR}: "
            "train the course `position` for longer."
        )
    architecture.save(folder, nets, DIALS)
    (folder / "README.md").write_text(model_card(context.state))
