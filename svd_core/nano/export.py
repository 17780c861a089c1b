"""From training state to the checkpoint folder that the app, or plain diffusers, loads."""

from pathlib import Path

import torch
from torch import Tensor, nn

from svd_core.errors import SvdError
from svd_core.nano import codec, shape

DIALS = {
    "sizes": [list(size) for size in shape.SIZES],
    "num_frames": shape.NUM_FRAMES,
    "num_inference_steps": 8,
    "min_guidance_scale": 1.0,
    "max_guidance_scale": 1.0,
}
"""What the app takes as the model's own values; guidance 1 means one pass of the UNet a step."""


def export(state: Path, kernel: Tensor, folder: Path) -> None:
    """Write the averaged weights of both courses. Raises `SvdError` if one has no state yet."""
    vae, unet, image_encoder = shape.vae(), shape.unet(), shape.image_encoder()
    codec.install(vae.encoder, vae.quant_conv, kernel.cpu())
    _load(state / "decoder.pt", {"decoder": vae.decoder})
    _load(state / "unet.pt", {"unet": unet, "image_encoder": image_encoder})
    parts = {"unet": unet, "vae": vae, "image_encoder": image_encoder}
    shape.save(folder, parts, DIALS)


@torch.no_grad()
def _load(path: Path, modules: dict[str, nn.Module]) -> None:
    if not path.exists():
        raise SvdError(f"{path.name} is missing in {path.parent}: train that course first.")
    average = torch.load(path, map_location="cpu", weights_only=True)["average"]
    for name, module in modules.items():
        for key, parameter in module.named_parameters():
            parameter.copy_(average[f"{name}.{key}"])
