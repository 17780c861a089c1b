"""Turbo weights: a second set of UNet weights, swapped in for the speed `turbo`."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.errors import ModelBroken
from svd_core.media.recipe import fingerprint
from svd_core.messages import Message
from svd_core.params import Speed


class TurboWeights:
    """The set of weights that is not in use, in main memory: for `turbo`, or the checkpoint's.

    `acceleration.turbo`: a safetensors file of all weights of a UNet by diffusers' names, the form
    in which AnimateLCM-SVD is published.
    """

    def __init__(self, acceleration: AccelerationConfig) -> None:
        self._acceleration = acceleration
        self._waiting: dict[str, Tensor] | None = None
        self._active = False

    def notes(self, speed: Speed) -> tuple[Message, ...]:
        """Notes on the weights of a clip at `speed`. Raises `InvalidRequest` if there are none."""
        self._acceleration.check(speed)
        path = self._acceleration.turbo
        if speed != "turbo" or path is None:
            return ()
        weights = f"{path.name} ({fingerprint(path)})"
        return (Message("turbo_used", weights=weights),)

    def is_active(self, speed: Speed) -> bool:
        """Whether the UNet holds the weights for `speed`."""
        return self._active == (speed == "turbo")

    @torch.no_grad()
    def swap(self, unet: Any) -> None:
        """Put the waiting weights into `unet`, which keeps device and precision and has no hooks.

        Raises `ModelBroken` for a file that does not fit.
        """
        current = unet.state_dict()
        if self._waiting is None:
            assert self._acceleration.turbo is not None
            self._waiting = _read(self._acceleration.turbo, current)
        backup = {name: weight.to("cpu", copy=True) for name, weight in current.items()}
        try:
            _fill(current, self._waiting)
        except BaseException:  # Ctrl-C too: a UNet of mixed weights would make wrong videos
            _fill(current, backup)
            raise
        self._waiting, self._active = backup, not self._active


def _read(path: Path, like: dict[str, Tensor]) -> dict[str, Tensor]:
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelBroken("turbo_unreadable", path=str(path), reason=str(error)) from error
    shapes = {name: weight.shape for name, weight in weights.items()}
    wrong = [name for name, weight in like.items() if shapes.get(name) != weight.shape]
    if wrong:
        raise ModelBroken("turbo_mismatch", path=str(path), count=len(wrong), name=wrong[0])
    return weights


def _fill(places: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    for name, place in places.items():
        place.copy_(weights[name])
