"""Schedulers of the speed modes `fast` and `turbo`: DPM-Solver++ and consistency sampling.

SVD is trained with the preconditioning of EDM (arXiv 2206.00364) for data of deviation 1, so any
sampler for that fits. `speed_modes` describes the modes.
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
"""Bits of a seed to flip for noise that differs from the initial noise of the clip. Torch's
generator on a CPU uses only 32 bits."""

LOWEST, HIGHEST = 0.002, 700.0
"""SVD's range of sigma, for a checkpoint whose scheduler names none."""


@contextmanager
def use_scheduler(pipeline: Any, params: VideoParams) -> Iterator[None]:
    """Have `pipeline` sample at the speed of `params`, until the context ends.

    The forward of its UNet is a `Guidance`, perhaps wrapped by the hooks of offload.
    """
    stock, guidance = pipeline.scheduler, unwrap(pipeline.unet.forward)
    if params.speed == "fast":
        pipeline.scheduler, guidance.guided = DPMSolver2.from_scheduler(stock), GUIDED_SIGMAS
    elif params.speed == "turbo":
        pipeline.scheduler = Consistency.from_scheduler(stock, params.seed)
    try:
        yield
    finally:
        pipeline.scheduler, guidance.guided = stock, None


class DPMSolver2(_EDM):  # type: ignore[misc]
    """DPM-Solver++ of second order (arXiv 2211.01095), in single precision, as Euler's is."""

    @classmethod
    def from_scheduler(cls, stock: Any) -> "DPMSolver2":
        """For the model that `stock` samples, with the same range of sigma."""
        return cls(*sigma_range(stock), sigma_data=1.0, prediction_type="v_prediction")

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *_: Any, **__: Any
    ) -> EulerDiscreteSchedulerOutput:
        """One step, with the predicted clean latents as Euler's scheduler gives them."""
        previous = super().step(model_output.float(), timestep, sample.float()).prev_sample
        prediction = self.model_outputs[-1]
        return EulerDiscreteSchedulerOutput(previous.to(model_output.dtype), prediction)


class Consistency(_EULER):  # type: ignore[misc]
    """Multistep consistency sampling (arXiv 2303.01469, algorithm 1).

    Each step predicts the clean latents, to which fresh noise is added, less from step to step.
    The same seed draws the same noise.
    """

    generator: torch.Generator

    @classmethod
    def from_scheduler(cls, stock: Any, seed: int) -> "Consistency":
        """For the model that `stock` samples; `seed` is the clip's."""
        scheduler: Consistency = cls.from_config(stock.config)
        scheduler.generator = torch.Generator().manual_seed(NOISE_SEED_BITS ^ seed)
        return scheduler

    def set_timesteps(
        self, num_inference_steps: int, device: torch.device | str | None = None, **_: Any
    ) -> None:
        """At most `MAX_TURBO_STEPS` levels of noise, spaced as in Karras et al., equation 5."""
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
        """One step: the predicted clean latents, and those with the noise of the next level."""
        clean = super().step(model_output, timestep, sample).pred_original_sample
        next_sigma = self.sigmas[self.step_index]
        scale = (next_sigma**2 - sigma_range(self)[0] ** 2).clamp(min=0).sqrt()
        noise = torch.randn(clean.shape, generator=self.generator).to(clean.device)
        return EulerDiscreteSchedulerOutput((clean + scale * noise).to(model_output.dtype), clean)


def sigma_range(scheduler: Any) -> tuple[float, float]:
    """Lowest and highest sigma that `scheduler` is made for."""
    return scheduler.config.sigma_min or LOWEST, scheduler.config.sigma_max or HIGHEST
