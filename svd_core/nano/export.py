"""From training state to the checkpoint folder that the app, or plain diffusers, loads."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from svd_core.errors import SvdError
from svd_core.nano import codec, shape
from svd_core.nano.card import model_card
from svd_core.nano.course import Course

DIALS: dict[str, Any] = {
    "sizes": [list(size) for size in shape.SIZES],
    "num_frames": shape.NUM_FRAMES,
    "num_inference_steps": 1,
    "min_guidance_scale": 1.0,
    "max_guidance_scale": 1.0,
    "half_precision_on_cpu": True,
}
"""What the app takes as the model's own values; guidance 1 means one pass of the UNet a step."""


def export(state: Path, kernel: Tensor, fresh: dict[str, Any], folder: Path) -> None:
    """Write the averaged weights of both courses into checkpoint `folder`.

    `fresh`: `unet` and `image_encoder` as training starts from them, taken where the UNet has no
    state yet. Raises `SvdError` if the decoder has none.
    """
    vae = shape.vae()
    codec.install(vae.encoder, vae.quant_conv, kernel.cpu())
    if not (state / "decoder.pt").exists():
        raise SvdError(f"decoder.pt is missing in {state}: train that course first.")
    _, crops, seconds = _load(state / "decoder.pt", {"decoder": vae.decoder})
    if (state / "unet.pt").exists():
        _load(state / "unet.pt", fresh)
    shape.save(folder, {**fresh, "vae": vae}, DIALS)
    card = model_card(crops, seconds, DIALS["num_inference_steps"])
    (folder / "README.md").write_text(card)


def adopt(folder: Path, state: Path) -> None:
    """Begin a new training `state` from the decoder and the codec of checkpoint `folder`."""
    vae = shape.vae()
    vae.load_state_dict(load_file(folder / "vae" / "diffusion_pytorch_model.safetensors"))
    torch.save(codec.installed(vae.encoder), state / "codec.pt")
    Course(state / "decoder.pt", {"decoder": vae.decoder}, _no_loss, rate=0.0, half_life=1).save()


def _no_loss(_: torch.Generator) -> Tensor:
    raise SvdError("A state that was only adopted cannot be trained.")


@torch.no_grad()
def _load(path: Path, modules: dict[str, Any]) -> tuple[int, int, float]:
    """Fill `modules`; how many steps and pictures they have learnt from, in how many seconds."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, module in modules.items():
        for key, parameter in module.named_parameters():
            parameter.copy_(state["average"][f"{name}.{key}"])
    steps, pictures, seconds = state["numbers"]
    return steps, pictures, seconds
