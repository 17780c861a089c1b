"""Roofline: the least time of a step, from its operations and the measured matmul rate."""

import time
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from svd_core.engine.pipeline_loader import CLASSES
from svd_core.params import VideoParams

SIDE = {"cpu": 1024, "cuda": 8192}
REPEATS = 8


def min_step_s(stock: Any, latents: Tensor, params: VideoParams) -> float:
    """Seconds. Operations are counted on tensors without numbers, as stock computes the step."""
    guided = (params.max_guidance_scale or 0) > 1
    return step_flops(stock.unet.config, latents.shape, 2 if guided else 1) / matmul_rate(
        stock.unet.device, stock.unet.dtype
    )


def step_flops(config: Any, shape: tuple[int, ...], halves: int) -> float:
    """Of one step on latents (1, frames, channels, height, width); a product and a sum are two."""
    _, frames, channels, height, width = shape
    with torch.device("meta"), torch.no_grad():
        unet: Any = CLASSES["unet"].from_config(dict(config))
        unet.to("meta")  # mix factors are made on the CPU whatever the context says
        counter: Any = FlopCounterMode(display=False)
        with counter:
            unet(
                torch.empty(halves, frames, config["in_channels"], height, width),
                torch.empty(()),
                torch.empty(halves, 1, config["cross_attention_dim"]),
                torch.empty(halves, 3),
            )
    return float(counter.get_total_flops())


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product, the best of some.

    Of random numbers: a GPU multiplies ones or zeros faster, since fewer bits change.
    """
    side = SIDE.get(device.type, SIDE["cpu"])
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.randn(side, side, generator=draw).to(device, dtype) for _ in range(2))
    best = float("inf")
    for _ in range(REPEATS):
        begin = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best
