"""The speeds a user may choose by name: `exact`, and two that change the picture.

`fast` takes about half the steps with a solver of second order, and guides only in the middle,
where it tells (arXiv 2404.07724). `turbo` takes four steps without guidance, with weights
that were distilled for it, such as AnimateLCM-SVD (arXiv 2402.00769). What they do to the sampler
is in `fast.samplers`.
"""

from dataclasses import replace

from svd_core.models import Checkpoint
from svd_core.params import Speed

FAST_SHARE = 0.56
"""Of the model's own steps: 14 instead of 25."""

TURBO_STEPS = 4

GUIDED = (0.03, 30.0)
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
