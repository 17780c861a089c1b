"""Depth net: the inner levels of the UNet, which predict depth, drift and coordinates.

They are an ordinary convolutional U-Net inside the stock one, learnt from hand-drawn sketches of
depth. A quarter of its channels, the position lane, never sees the photo: zero padding at the edges
is all it has to find coordinates from, so they are the same for every photo and can be checked for
every size once and for all (`position_net`). The other channels see both.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.training.architecture import LATENT_CHANNELS, LEVELS, PATCH, UNET_WIDTH, Net
from svd_core.training.channel_layout import CARRIER, channel
from svd_core.training.linear_codec import encode

POSITION_CHANNELS = 24
"""Channels of the position lane, whole norm groups."""

OUTPUTS = {"x": 0, "y": 1, "near": POSITION_CHANNELS, "drift": POSITION_CHANNELS + 1}
"""Channels of the innermost levels' answer, at the resolution of the latents. `x`, `y`: the cell's
coordinates in units of 32 cells. `near`: 0 far to 1 close. `drift`: 0 firm to 1 free."""


_PHOTO = [channel(f"photo_{j}") for j in range(LATENT_CHANNELS)]

OUTPUT_NAMES = ("near", "drift")
HALF_SIZE_STEPS = 4000
"""So long pictures of half the size are learnt from: twice as many in half the time."""

INITIAL_OUTPUT = 0.25
"""Of near and drift."""

SMOOTH = 9
"""Cells along the side of the squares over which a sketch is averaged before it is learnt."""


@dataclass(frozen=True)
class ChannelSlice:
    """Runs channels `start` to `stop` of the inner levels, as if the others were not there.

    Only the first channels may be run alone: they are those that do not look at the rest.
    """

    unet: Net
    stop: int = UNET_WIDTH

    def __call__(self, photo: Tensor) -> Tensor:
        """`photo`: latents (n, channels, height, width). Answers (n, stop, height, width)."""
        last = list(self.unet.up_blocks)[-2].upsamplers[0].conv
        return self._conv(last, self.features(photo))

    def features(self, photo: Tensor) -> Tensor:
        """What enters the last layer, which gives the answer."""
        down, up = self.unet.down_blocks, self.unet.up_blocks
        first = down[0].downsamplers[0].conv
        read = [0] if self.stop == POSITION_CHANNELS else [0, *_PHOTO]
        entering = torch.cat([torch.full_like(photo[:, :1], CARRIER), photo], dim=1)[:, : len(read)]
        weight = first.weight[: self.stop, read]
        x = F.conv2d(entering, weight, first.bias[: self.stop], stride=2, padding=1)
        skips = [x]
        for level in list(down)[1:]:
            x = self._resnet(level.resnets[0], x)
            skips.append(x)
            if level.downsamplers is not None:
                x = self._conv(level.downsamplers[0].conv, x, stride=2)
                skips.append(x)
        for block in self.unet.mid_block.resnets:
            x = self._resnet(block, x)
        for level in list(up)[:-1]:
            for block in level.resnets:
                x = self._resnet(block, torch.cat([x, skips.pop()], dim=1))
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            if level is not list(up)[-2]:
                x = self._conv(level.upsamplers[0].conv, x)
        return x

    def _resnet(self, block: Net, x: Tensor) -> Tensor:
        block = block.spatial_res_block
        hidden = self._conv(block.conv1, F.silu(self._norm(block.norm1, x)))
        hidden = self._conv(block.conv2, F.silu(self._norm(block.norm2, hidden)))
        if block.conv_shortcut is not None:
            x = self._conv(block.conv_shortcut, x)
        return x + hidden

    def _conv(self, conv: nn.Conv2d, x: Tensor, stride: int = 1) -> Tensor:
        assert conv.bias is not None
        weight = self._of(conv.weight, 1)[: self.stop]
        return F.conv2d(x, weight, conv.bias[: self.stop], stride, conv.kernel_size[0] // 2)

    def _norm(self, norm: nn.GroupNorm, x: Tensor) -> Tensor:
        groups = norm.num_groups * x.shape[1] // norm.num_channels
        return F.group_norm(x, groups, self._of(norm.weight, 0), self._of(norm.bias, 0), norm.eps)

    def _of(self, weight: Tensor, dim: int) -> Tensor:
        """What belongs to the lane of `weight`, along `dim`: also of the skip beside it."""
        parts = torch.split(weight, UNET_WIDTH, dim=dim)
        return torch.cat([part.narrow(dim, 0, self.stop) for part in parts], dim=dim)


def inner_layers(unet: Net) -> nn.ModuleDict:
    """The layers that `ChannelSlice` runs, by name, for an optimiser."""
    layers: dict[str, nn.Module] = {"enter": unet.down_blocks[0].downsamplers[0].conv}
    for index, level in enumerate([*list(unet.down_blocks)[1:], *list(unet.up_blocks)[:-1]]):
        layers[f"level{index}"] = level
    layers["middle"] = unet.mid_block.resnets
    return nn.ModuleDict(layers)


@torch.no_grad()
def prepare(unet: Net) -> None:
    """Random first weights of the inner levels, with the position lane shut off from the photo.

    Layers that `ChannelSlice` does not run (time, text, the time of denoising) stay as they are:
    silent."""
    for name, module in inner_layers(unet).named_modules():
        if not isinstance(module, nn.Conv2d) or "temporal" in name:
            continue
        assert module.bias is not None
        nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        module.bias.zero_()
        if name.endswith("conv2"):
            module.weight.mul_(0.1)
        if "conv" in name or name == "enter":
            for part in torch.split(module.weight, UNET_WIDTH, dim=1):
                part[:POSITION_CHANNELS, POSITION_CHANNELS:] = 0.0
    enter = unet.down_blocks[0].downsamplers[0].conv
    read = torch.zeros(UNET_WIDTH, dtype=torch.bool)
    read[_PHOTO] = True
    enter.weight[:, ~read] = 0.0
    enter.weight[:POSITION_CHANNELS] = 0.0
    enter.weight[:, 0] = torch.randn(UNET_WIDTH, 3, 3) / (3 * CARRIER)


@torch.no_grad()
def connect_photo_input(unet: Net, spread: Tensor) -> None:
    """Let the levels that `prepare` left see the photo, whose latents deviate by `spread` each: all
    of them equally, or the first ones, which are brightness, drown the rest.

    Before anything is learnt all places are equally near. What is seen is only smoothed on its way
    out, by a fixed kernel: cells that disagree with their neighbours about how near they are would
    tear a picture that moves.
    """
    enter = unet.down_blocks[0].downsamplers[0].conv
    enter.weight[POSITION_CHANNELS:, _PHOTO] /= 2 * spread[:, None, None]
    rows = [OUTPUTS[name] for name in OUTPUT_NAMES]
    block = list(unet.up_blocks)[-2].resnets[-1].spatial_res_block
    last = list(unet.up_blocks)[-2].upsamplers[0].conv
    for layer in (block.conv2, block.conv_shortcut, last):
        layer.weight[rows] = 0.0
        layer.bias[rows] = 0.0
    block.conv_shortcut.bias[rows] = INITIAL_OUTPUT
    taps = torch.tensor([0.25, 0.5, 0.25])
    for row in rows:
        last.weight[row, row] = taps[:, None] * taps


def mask_gradients(unet: Net, position: bool) -> None:
    """Let training change the position lane alone, or all but it."""
    for name, parameter in inner_layers(unet).named_parameters():
        if "temporal" in name or "time_" in name or "attentions" in name:
            parameter.requires_grad_(False)
            continue
        mask = torch.zeros_like(parameter)
        mask[:POSITION_CHANNELS] = 1.0
        if parameter.ndim == 1:
            mask = _of_lane(len(parameter))
        if not position:
            mask = 1.0 - mask
        if name.startswith(f"level{2 * LEVELS - 3}.upsamplers"):
            mask[[OUTPUTS[seen] for seen in OUTPUT_NAMES]] = 0.0
        hook: Any = parameter.register_hook
        hook(lambda gradient, mask=mask: gradient * mask)


def _of_lane(length: int) -> Tensor:
    """1 at the lane's entries of a vector that may also describe the skip beside it."""
    place = torch.arange(length) % UNET_WIDTH
    return (place < POSITION_CHANNELS).float()


def scene_loss(unet: Net, scenes: Tensor, kernel: Tensor, generator: torch.Generator) -> Tensor:
    """Squared error of `near` and `drift` for `scenes` (n, 5, height, width) in [-1, 1]: photos and
    their sketches. The photos' colours are varied, and noise is laid over them as SVD's noise
    augmentation does."""
    photos, wanted = scenes[:, :3], F.avg_pool2d((scenes[:, 3:] + 1) / 2, PATCH)
    margin = (SMOOTH // 2,) * 4
    wanted = F.avg_pool2d(F.pad(wanted, margin, mode="replicate"), SMOOTH, stride=1)
    gain, shift, amount = (
        torch.rand((len(scenes), c, 1, 1), generator=generator) for c in (3, 3, 1)
    )
    photos = (0.8 + 0.4 * gain.to(photos.device)) * photos + 0.3 * (shift.to(photos.device) - 0.5)
    noise = 0.05 * amount * torch.randn(photos.shape, generator=generator)
    latents = encode(photos + noise.to(photos.device), kernel.to(photos.device))
    made = ChannelSlice(unet)(latents)[:, [OUTPUTS[name] for name in OUTPUT_NAMES]]
    return F.mse_loss(made.float(), wanted)
