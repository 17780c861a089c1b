"""Schedulers of the speed modes that change the picture; see `speed_modes` for when they are used.

SVD is trained with the preconditioning of EDM (arXiv 2206.00364) for data of deviation 1, so that
any sampler written for that fits it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import unwrap
from typing import Any

import torch
from diffusers import EDMDPMSolverMultistepScheduler, EulerDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteSchedulerOutput
from torch import Tensor

from svd_core.checkpoints.speed_modes import GUIDED_SIGMAS, MAX_TURBO_STEPS
from svd_core.params import VideoParams

_EULER: Any = EulerDiscreteScheduler
_EDM: Any = EDMDPMSolverMultistepScheduler

NOISE_SEED_BITS = 0x9E3779B9
"""Bits of a seed that are turned round for noise other than what the clip starts from. Torch's
generator on a CPU looks at 32 of them only."""

LOWEST, HIGHEST = 0.002, 700.0
"""SVD's levels of noise, where a checkpoint's scheduler names none."""


@contextmanager
def use_scheduler(pipeline: Any, params: VideoParams) -> Iterator[None]:
    """Let `pipeline` sample at the speed of `params`. Its UNet's forward is a `Guidance`, perhaps
    behind the hooks of offload."""
    own, guidance = pipeline.scheduler, unwrap(pipeline.unet.forward)
    if params.speed == "fast":
        pipeline.scheduler, guidance.guided = DPMSolver2.from_scheduler(own), GUIDED_SIGMAS
    elif params.speed == "turbo":
        pipeline.scheduler = Consistency.from_scheduler(own, params.seed)
    try:
        yield
    finally:
        pipeline.scheduler, guidance.guided = own, None


class DPMSolver2(_EDM):  # type: ignore[misc]
    """DPM-Solver++ of second order (arXiv 2211.01095), in single precision, as Euler's is."""

    @classmethod
    def from_scheduler(cls, own: Any) -> "DPMSolver2":
        """For what `own` samples, from the same levels of noise."""
        return cls(*sigma_range(own), sigma_data=1.0, prediction_type="v_prediction")

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *_: Any, **__: Any
    ) -> EulerDiscreteSchedulerOutput:
        """Answers as Euler's does, with what it takes for the end of the way."""
        found = super().step(model_output.float(), timestep, sample.float()).prev_sample
        prediction = self.model_outputs[-1]
        return EulerDiscreteSchedulerOutput(found.to(model_output.dtype), prediction)


class Consistency(_EULER):  # type: ignore[misc]
    """Sampling with a consistency model (arXiv 2303.01469, algorithm 1): each step goes to the end
    of the way, and fresh noise, the same for the same seed, leads part of it back."""

    generator: torch.Generator

    @classmethod
    def from_scheduler(cls, own: Any, seed: int) -> "Consistency":
        made: Consistency = cls.from_config(own.config)
        made.generator = torch.Generator().manual_seed(NOISE_SEED_BITS ^ seed)
        return made

    def set_timesteps(
        self, num_inference_steps: int, device: torch.device | str | None = None, **_: Any
    ) -> None:
        """At most `MAX_TURBO_STEPS`; the levels lie as in Karras et al., equation 5."""
        count = num_inference_steps
        ramp = torch.arange(count) * (MAX_TURBO_STEPS // count) / (MAX_TURBO_STEPS - 1)
        low, high = (level ** (1 / 7) for level in sigma_range(self))
        sigmas = (high + ramp * (low - high)) ** 7
        self.num_inference_steps = count
        self.timesteps = (sigmas.log() / 4).to(device)
        self.sigmas = torch.cat([sigmas, torch.zeros(1)])
        self._step_index = self._begin_index = None

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *_: Any, **__: Any
    ) -> EulerDiscreteSchedulerOutput:
        end = super().step(model_output, timestep, sample).pred_original_sample
        after = self.sigmas[self.step_index]
        back = (after**2 - sigma_range(self)[0] ** 2).clamp(min=0).sqrt()
        noise = torch.randn(end.shape, generator=self.generator).to(end.device)
        return EulerDiscreteSchedulerOutput((end + back * noise).to(model_output.dtype), end)


def sigma_range(scheduler: Any) -> tuple[float, float]:
    """The lowest and the highest level of noise that `scheduler` is made for."""
    return scheduler.config.sigma_min or LOWEST, scheduler.config.sigma_max or HIGHEST
