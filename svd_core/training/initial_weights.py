"""Initial weights of the UNet: a net that warps the photo before any training.

Learning to move a picture takes a small net far more clips than a CPU can show it: after 3,300, a
UNet that started from copying blurred the photo where it should have shifted it. But moving a photo
needs no learning, and the stock architecture can express it: `motion_model` says where each cell
comes from, `warp_attention` fetches it. Both stand at the outermost level. What does need learning
is what the photo shows; that is left to the inner levels (`depth_net`), which tell how near each
place is, and where in the picture it lies."""

import torch
from torch import Tensor, nn

from svd_core.training import channel_layout, motion_model, warp_attention
from svd_core.training.architecture import LATENT_CHANNELS, UNET_WIDTH, Net
from svd_core.training.channel_layout import CODES, GROUP, OFFSET, PLACES, channel
from svd_core.training.depth_net import OUTPUTS
from svd_core.training.handwritten_layers import zero_branches


@torch.no_grad()
def initialize(unet: Net, bends: tuple[Tensor, Tensor]) -> None:
    """Write the outermost level of `unet` (`shape.unet()`); all else is silent (zero)."""
    zero_branches(unet)
    _enter(unet.conv_in)
    first, second = (r.spatial_res_block.conv_shortcut for r in unet.up_blocks[-1].resnets)
    skip = UNET_WIDTH  # what the inner levels say comes first, then what came in
    coarsen = channel_layout.carriers() / channel_layout.carriers(fine=True)
    for place in range(UNET_WIDTH):
        if place % GROUP != 2:
            first.weight[place, skip + place] = 1.0
            second.weight[place, place] = coarsen[place]
    for name in [*_photo(), *(f"noise_{code}" for code in CODES)]:
        first.weight[channel(name), skip + channel(name)] = 1.0
    for name, place in OUTPUTS.items():
        first.weight[channel(name), place] = 1.0
    for name in (*_photo(), *PLACES):
        second.weight[channel(name), channel(name)] = 1.0
    motion_model.write(unet)
    warp_attention.write(unet.up_blocks[-1].attentions[1], bends)
    _leave(unet.conv_norm_out, unet.conv_out)


def _photo() -> list[str]:
    return [f"photo_{j}" for j in range(LATENT_CHANNELS)]


def _enter(conv: nn.Conv2d) -> None:
    assert conv.bias is not None
    channel_layout.set_carriers(conv.bias, fine=True)
    for latent, name in enumerate(_photo()):
        conv.weight[channel(name), LATENT_CHANNELS + latent, 1, 1] = 1.0
    for source, code in enumerate(CODES):
        conv.weight[channel(f"noise_{code}"), source, 1, 1] = 1.0


def _leave(norm: Net, conv: Net) -> None:
    """v is minus the clean latents. A SiLU stands in between: values pass where it is straight, and
    both carriers with the same sign, to tell what the norm took off."""
    channel_layout.undo(norm)
    norm.weight[1::GROUP] *= -1.0
    norm.bias[2::GROUP] = OFFSET
    for latent in range(LATENT_CHANNELS):
        place = channel(f"moved_{latent}")
        conv.weight[latent, place, 1, 1] = -1.0
        conv.weight[latent, place - 1, 1, 1] = -0.5
        conv.weight[latent, place - 2, 1, 1] = 0.5
        conv.bias[latent] = OFFSET
