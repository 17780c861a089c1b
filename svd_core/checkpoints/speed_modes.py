"""Speed modes that a user chooses by name, and the acceleration that an operator configures.

`exact` is the default, two others change the picture. `fast` takes about half the steps with a
solver of second order, and guides only in the middle, where it tells (arXiv 2404.07724). `turbo`
takes four steps without guidance, with weights that were distilled for it, such as AnimateLCM-SVD
(arXiv 2402.00769). What they do to the sampler is in `engine.optimizations.schedulers`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from svd_core.checkpoints.table import Checkpoint
from svd_core.errors import InvalidRequest
from svd_core.params import Speed, VideoParams
from svd_core.settings import Settings, on_zero_gpu

Compile = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class AheadOfTime:
    """How a platform that lends its GPU call by call has a UNet compiled before it is needed.

    `borrow`: does what it is given with the GPU, in a process of its own, to the end. `compile`:
    writes an exported program, compiled, to a new folder. `load`: gives a model the forward that
    lies in such a folder, with the model's own weights. Any of them may raise anything.
    """

    run_on_gpu: Callable[[Callable[[], None]], None]
    compile: Callable[[Path, Any], None]
    load: Callable[[Any, Path], None]


@dataclass(frozen=True, kw_only=True)
class AccelerationConfig:
    """`turbo`: file of the UNet's weights for that speed, see `TurboWeights`. `compile`: whether
    the UNet is compiled; `auto` does where it has been done before, which leaves some seconds of
    it. `folder`: where what was compiled is kept, and which attention backends a GPU is right with;
    without one, nothing is compiled. `ahead`: as a whole, when the model is loaded (see
    `optimizations.aot_package`); None: in blocks, by the first video."""

    turbo: Path | None = None
    compile: Compile = "off"
    folder: Path | None = None
    ahead: AheadOfTime | None = None

    @classmethod
    def from_settings(
        cls, settings: Settings, ahead: AheadOfTime | None = None
    ) -> "AccelerationConfig":
        """Those of this program's user. On a lent GPU, what is not done ahead is not done: in a
        process of its own for each video, other weights and compiling would take more of its time
        than they save."""
        folder = settings.data_dir / "compiled"
        if on_zero_gpu():
            return cls(compile=settings.compile, folder=folder, ahead=ahead) if ahead else cls()
        return cls(turbo=settings.turbo, compile=settings.compile, folder=folder)

    @property
    def speeds(self) -> tuple[Speed, ...]:
        """The available speed modes."""
        return tuple(each for each in get_args(Speed) if each != "turbo" or self.turbo)

    def check(self, speed: Speed) -> None:
        """Raises `InvalidRequest` for a speed mode that is not available."""
        if speed not in self.speeds:
            raise InvalidRequest(
                "speed",
                "Turbo needs weights of its own, which this server was not given (SVD_TURBO); "
                "choose exact or fast.",
            )


FAST_SHARE = 0.56
"""Of the model's own steps: 14 instead of 25."""

TURBO_STEPS = 4
MAX_TURBO_STEPS = 40
"""Levels of noise at which AnimateLCM-SVD was distilled; steps are taken at some of them."""

GUIDED_SIGMAS = (0.03, 30.0)
"""Levels of noise (sigma) between which `fast` guides: 11 of SVD's 25 are higher, 3 are lower."""


def at_speed(checkpoint: Checkpoint, speed: Speed) -> Checkpoint:
    """`checkpoint` with the steps and the guidance that it has at `speed`, where none are asked."""
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
    """`params` at the default speed, without the steps and guidance of another speed mode."""
    return replace(
        params,
        speed="exact",
        num_inference_steps=None,
        min_guidance_scale=None,
        max_guidance_scale=None,
    )
