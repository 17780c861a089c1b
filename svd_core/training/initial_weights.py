"""Initial weights of the UNet: a net that warps the photo before any training.

To learn motion, a small net needs far more clips than a CPU can render. After 3,300 clips, a UNet
that started as a copy blurred the photo instead of shifting it. But motion can be written down in
the stock architecture: `motion_model` computes the place each cell comes from, and `warp_attention`
fetches it. Both are in the outermost level.

The content of the photo must be learnt. The inner levels (`depth_net`) predict how near each place
is, and where in the picture it is.
"""

import torch
from torch import Tensor, nn

from svd_core.training.architecture import LATENT_CHANNELS, UNET_WIDTH, Net
from svd_core.training.depth_net import OUTPUTS
from svd_core.training.handwritten_layers import (
    CODES,
    GROUP,
    OFFSET,
    PHOTO,
    PLACES,
    carriers,
    channel_index,
    set_carriers,
    undo_norm,
    zero_branches,
)
from svd_core.training.motion_model import write_motion
from svd_core.training.warp_attention import write_warp_attention


@torch.no_grad()
def initialize(unet: Net, bends: tuple[Tensor, Tensor]) -> None:
    """Write the outermost level of `unet` (`architecture.unet()`); all other layers add zero.

    `bends`: as `warp_attention.fit_latent_shift` returns them.
    """
    zero_branches(unet)
    _write_input(unet.conv_in)
    first, second = (r.spatial_res_block.conv_shortcut for r in unet.up_blocks[-1].resnets)
    skip = UNET_WIDTH  # outputs of the inner levels come first, then the skip connection
    coarsen = carriers() / carriers(fine=True)
    for place in range(UNET_WIDTH):
        if place % GROUP != 2:
            first.weight[place, skip + place] = 1.0
            second.weight[place, place] = coarsen[place]
    for name in [*PHOTO, *(f"noise_{code}" for code in CODES)]:
        first.weight[channel_index(name), skip + channel_index(name)] = 1.0
    for name, place in OUTPUTS.items():
        first.weight[channel_index(name), place] = 1.0
    for name in (*PHOTO, *PLACES):
        second.weight[channel_index(name), channel_index(name)] = 1.0
    write_motion(unet)
    write_warp_attention(unet.up_blocks[-1].attentions[1], bends)
    _write_output(unet.conv_norm_out, unet.conv_out)


def _write_input(conv: nn.Conv2d) -> None:
    assert conv.bias is not None
    set_carriers(conv.bias, fine=True)
    for latent, name in enumerate(PHOTO):
        conv.weight[channel_index(name), LATENT_CHANNELS + latent, 1, 1] = 1.0
    for source, code in enumerate(CODES):
        conv.weight[channel_index(f"noise_{code}"), source, 1, 1] = 1.0


def _write_output(norm: Net, conv: Net) -> None:
    """Write the last layer: v is minus the clean latents.

    Between them is a SiLU. Values pass it where it is linear, and both carriers with the same
    sign, so that their sum is what the norm subtracted.
    """
    undo_norm(norm)
    norm.weight[1::GROUP] *= -1.0
    norm.bias[2::GROUP] = OFFSET
    for latent in range(LATENT_CHANNELS):
        place = channel_index(f"moved_{latent}")
        conv.weight[latent, place, 1, 1] = -1.0
        conv.weight[latent, place - 1, 1, 1] = -0.5
        conv.weight[latent, place - 2, 1, 1] = 0.5
        conv.bias[latent] = OFFSET
