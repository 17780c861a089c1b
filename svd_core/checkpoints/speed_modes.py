"""Speed modes that a user chooses by name, and the acceleration that an operator configures.

`exact` is the default; the two others change the picture. `fast` takes about half the steps with a
second-order solver, and guides only in the middle, where guidance matters (arXiv 2404.07724).
`turbo` takes four steps without guidance, with weights distilled for it, such as AnimateLCM-SVD
(arXiv 2402.00769). Their schedulers are in `engine.optimizations.schedulers`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from svd_core.checkpoints.table import Checkpoint
from svd_core.errors import InvalidRequest, InvalidSettings
from svd_core.params import Speed, VideoParams
from svd_core.settings import Settings, on_zero_gpu

Compile = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class AccelerationConfig:
    """Ways to make videos faster, as configured by the operator.

    `turbo`: file of the UNet's weights for that speed, see `TurboWeights`. `compile`: whether the
    UNet is compiled; `auto` does so where code is cached, which takes seconds. `folder`: cache of
    compiled code and of the kernels chosen for a GPU; without one, nothing is compiled.
    """

    turbo: Path | None = None
    compile: Compile = "off"
    folder: Path | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> "AccelerationConfig":
        """The operator's settings, none of which apply on ZeroGPU.

        Each video has its own process there, so other weights and compiling would not pay. Raises
        `InvalidSettings` for `SVD_COMPILE=on` there.
        """
        if on_zero_gpu():
            if settings.compile == "on":
                raise InvalidSettings("compile_on_zero_gpu")
            return cls()
        folder = settings.data_dir / "compiled"
        return cls(turbo=settings.turbo, compile=settings.compile, folder=folder)

    @property
    def speeds(self) -> tuple[Speed, ...]:
        return tuple(each for each in get_args(Speed) if each != "turbo" or self.turbo)

    def check(self, speed: Speed) -> None:
        """Raises `InvalidRequest` for a speed that is unavailable."""
        if speed not in self.speeds:
            raise InvalidRequest("turbo_unavailable", field="speed")


FAST_SHARE = 0.56
"""Share of the model's default steps that `fast` takes: 14 instead of 25."""

TURBO_STEPS = 4
MAX_TURBO_STEPS = 40
"""Levels of noise at which AnimateLCM-SVD was distilled; steps use some of them."""

GUIDED_SIGMAS = (0.03, 30.0)
"""Levels of noise (sigma) between which `fast` guides: 11 of SVD's 25 are higher, 3 are lower."""


def at_speed(checkpoint: Checkpoint, speed: Speed) -> Checkpoint:
    """`checkpoint` with the default steps and guidance that it has at `speed`."""
    steps = checkpoint.num_inference_steps
    if speed == "fast":
        return replace(checkpoint, num_inference_steps=round(FAST_SHARE * steps) or 1)
    if speed == "turbo":
        return replace(
            checkpoint,
            num_inference_steps=min(TURBO_STEPS, steps),
            min_guidance_scale=1.0,
            max_guidance_scale=1.0,
        )
    return checkpoint


def reset_speed(params: VideoParams) -> VideoParams:
    """`params` at speed `exact`, without the steps and guidance of another speed."""
    return replace(
        params,
        speed="exact",
        num_inference_steps=None,
        min_guidance_scale=None,
        max_guidance_scale=None,
    )
