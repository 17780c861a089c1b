"""First weights of svd-nano's UNet: a net that moves the photo before it has been trained.

Learning to move a picture takes a small net far more clips than a CPU can show it: after 3,300, a
UNet that started from copying blurred the photo where it should have shifted it. But a shift is a
known linear map of neighbouring latent cells, and the stock architecture can express it: its
convolutions fetch the neighbours, its GEGLU multiplies them with piecewise linear functions of the
displacement, and attention with equal weights reads the direction from the noise. So those weights
are written down.
"""

import torch

from svd_core.nano.channels import CARRIER, GROUP, Channels
from svd_core.nano.operators import KNOT_STEP, KNOTS, Operators
from svd_core.nano.shape import LATENT_CHANNELS, Net
from svd_core.nano.shifting import gather, move
from svd_core.nano.steering import MOTION_CHANNELS, write_displacement, write_speed
from svd_core.nano.tokens import silence


@torch.no_grad()
def initialise(unet: Net, operators: Operators) -> None:
    """Write the weights of `unet` (`shape.unet()`); what is not used is silent (zero)."""
    silence(unet)
    for group in _group_norms(unet):
        group.weight.fill_(CARRIER / 3**0.5)  # deviation of (0, 0, carrier, -carrier, 0, 0)
        group.bias.zero_()
    _enter(unet)
    write_speed(unet)
    down, mid, up = unet.down_blocks[0], unet.mid_block, unet.up_blocks[0]
    for resnet in up.resnets:
        width = len(unet.conv_in.weight)
        resnet.spatial_res_block.conv_shortcut.weight[:, :width, 0, 0] = torch.eye(width)
    write_displacement(down.attentions[0])
    gather(mid.resnets[0].spatial_res_block, axis=0)
    move(mid.attentions[0], operators, axis=0, start=0.0)
    gather(mid.resnets[1].spatial_res_block, axis=1)
    move(up.attentions[0], operators, axis=1, start=0.0)
    gather(up.resnets[1].spatial_res_block, axis=0)
    move(up.attentions[1], operators, axis=0, start=KNOTS * KNOT_STEP)
    for latent, channel in enumerate(Channels.photo):  # v is minus the clean latents
        unet.conv_out.weight[latent, channel, 1, 1] = -1.0
        unet.conv_out.weight[latent, channel + 1, 1, 1] = 1.0


def _group_norms(unet: Net) -> list[Net]:
    return [m for m in unet.modules() if isinstance(m, torch.nn.GroupNorm)]


def _enter(unet: Net) -> None:
    unet.conv_in.bias[2::GROUP] = CARRIER
    unet.conv_in.bias[3::GROUP] = -CARRIER
    for latent, channel in enumerate(Channels.photo):
        unet.conv_in.weight[channel, LATENT_CHANNELS + latent, 1, 1] = 1.0
        unet.conv_in.weight[channel + 1, LATENT_CHANNELS + latent, 1, 1] = -1.0
    for source, channel in zip(MOTION_CHANNELS, Channels.noise, strict=True):
        unet.conv_in.weight[channel, source, 1, 1] = 1.0
        unet.conv_in.weight[channel + 1, source, 1, 1] = -1.0
