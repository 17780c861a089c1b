"""Tiny stock models whose every weight is random, mix factors and norms too, and clips for them."""

import torch
from torch import nn

from tests.fakes.tiny_checkpoint import _parts


def random_models(seed: int = 0) -> dict[str, nn.Module]:
    """`unet` and `vae`. Nothing in them is silent, and no blend is even."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        models = {part: model for part, model in _parts().items() if part in ("unet", "vae")}
        for model in models.values():
            _scatter(model)
    return {part: model.eval() for part, model in models.items()}


def _scatter(model: nn.Module) -> None:
    """Draw what stock starts at zero or one."""
    for name, parameter in model.named_parameters():
        if name.endswith("mix_factor"):
            parameter.data = torch.randn(parameter.shape)
        elif parameter.dim() == 1:
            parameter.data += 0.2 * torch.randn(parameter.shape)


def denoise(unet: nn.Module, halves: int = 1, **shape: int) -> torch.Tensor:
    """One step of a clip, always the same."""
    (sample, time, *more), options = question(halves, **shape)
    dtype = next(unet.parameters()).dtype
    with torch.no_grad():
        return unet(sample.to(dtype), time, *(told.to(dtype) for told in more), **options)[0]


def question(
    halves: int = 1, frames: int = 3, height: int = 8, width: int = 8
) -> tuple[tuple[torch.Tensor, ...], dict[str, bool]]:
    """What a UNet is given for one step; `halves`: 2 with guidance."""
    draw = torch.Generator().manual_seed(1)
    sample = torch.randn(halves, frames, 8, height, width, generator=draw)
    token = torch.randn(halves, 1, 16, generator=draw)
    ids = torch.tensor([[6.0, 127.0, 0.02]] * halves)
    return (sample, torch.tensor(1.0), token, ids), {"return_dict": False}


def decode(vae: nn.Module, frames: int = 3, height: int = 4, width: int = 4) -> torch.Tensor:
    """Pixels of latents that are always the same."""
    draw = torch.Generator().manual_seed(2)
    dtype = next(vae.parameters()).dtype
    latents = torch.randn(frames, 4, height, width, generator=draw).to(dtype)
    with torch.no_grad():
        return vae.decode(latents, num_frames=frames).sample
