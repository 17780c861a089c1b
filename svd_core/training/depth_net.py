"""Depth net: the inner levels of the UNet, which predict depth, drift and coordinates.

They are an ordinary convolutional U-Net inside the stock one, trained on hand-drawn sketches of
depth. A quarter of its channels, the position lane, never reads the photo. It learns coordinates
from the zero padding at the edges alone. So coordinates are the same for every photo, and one check
per size is enough. The other channels read the photo and the position lane.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.training.architecture import LATENT_CHANNELS, LEVELS, PATCH, SIZES, UNET_WIDTH, Net
from svd_core.training.handwritten_layers import CARRIER, CELL_UNIT, PHOTO, channel_index
from svd_core.training.vae import encode

POSITION_CHANNELS = 24
"""Channels of the position lane, whole norm groups."""

OUTPUTS = {"x": 0, "y": 1, "near": POSITION_CHANNELS, "drift": POSITION_CHANNELS + 1}
"""Output channels of the inner levels, at the resolution of the latents. `x`, `y`: the cell's
coordinates in units of 32 cells. `near`: 0 far to 1 close. `drift`: 0 firm to 1 free."""

_PHOTO = [channel_index(name) for name in PHOTO]

OUTPUT_NAMES = ("near", "drift")
HALF_SIZE_STEPS = 4000
"""Steps on pictures of half the size, twice as many at a time, in half the time."""

INITIAL_OUTPUT = 0.25
"""Output for near and drift before any training."""

SMOOTH = 9
"""Side in cells of the squares over which a sketch is averaged before it is learnt."""


@dataclass(frozen=True)
class ChannelSlice:
    """Runs the channels of the inner levels up to `stop`, without the others.

    Only the position lane can run alone, since it does not read the other channels.
    """

    unet: Net
    stop: int = UNET_WIDTH

    def __call__(self, photo: Tensor) -> Tensor:
        """`photo`: latents (n, channels, height, width). Returns (n, stop, height, width)."""
        last = self.unet.up_blocks[-2].upsamplers[0].conv
        return self._conv(last, self.features(photo))

    def features(self, photo: Tensor) -> Tensor:
        """Input of the last layer."""
        down, up = self.unet.down_blocks, self.unet.up_blocks
        first = down[0].downsamplers[0].conv
        read = [0] if self.stop == POSITION_CHANNELS else [0, *_PHOTO]
        entering = torch.cat([torch.full_like(photo[:, :1], CARRIER), photo], dim=1)[:, : len(read)]
        weight = first.weight[: self.stop, read]
        x = F.conv2d(entering, weight, first.bias[: self.stop], stride=2, padding=1)
        skips = [x]
        for level in down[1:]:
            x = self._resnet(level.resnets[0], x)
            skips.append(x)
            if level.downsamplers is not None:
                x = self._conv(level.downsamplers[0].conv, x, stride=2)
                skips.append(x)
        for block in self.unet.mid_block.resnets:
            x = self._resnet(block, x)
        for level in up[:-1]:
            for block in level.resnets:
                x = self._resnet(block, torch.cat([x, skips.pop()], dim=1))
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            if level is not up[-2]:
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
        """Channels up to `stop` of `weight` along `dim`, and the same of a skip connection."""
        parts = torch.split(weight, UNET_WIDTH, dim=dim)
        return torch.cat([part.narrow(dim, 0, self.stop) for part in parts], dim=dim)


def inner_layers(unet: Net) -> nn.ModuleDict:
    """Layers that `ChannelSlice` runs, by name, for an optimizer."""
    layers: dict[str, nn.Module] = {"enter": unet.down_blocks[0].downsamplers[0].conv}
    for index, level in enumerate([*unet.down_blocks[1:], *unet.up_blocks[:-1]]):
        layers[f"level{index}"] = level
    layers["middle"] = unet.mid_block.resnets
    return nn.ModuleDict(layers)


@torch.no_grad()
def prepare(unet: Net) -> None:
    """Initialize the inner levels at random, with the position lane cut off from the photo.

    Layers that `ChannelSlice` does not run (time, text, timestep) keep adding zero.
    """
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
    """Scale the photo input by `spread`, the deviation of each latent, and fix the output kernel.

    Without the scale, the first latents, which are brightness, would dominate. Before training, all
    places are equally near. A fixed kernel smooths the outputs: neighbouring cells of different
    depth would tear a moving picture.
    """
    enter = unet.down_blocks[0].downsamplers[0].conv
    enter.weight[POSITION_CHANNELS:, _PHOTO] /= 2 * spread[:, None, None]
    rows = [OUTPUTS[name] for name in OUTPUT_NAMES]
    block = unet.up_blocks[-2].resnets[-1].spatial_res_block
    last = unet.up_blocks[-2].upsamplers[0].conv
    for layer in (block.conv2, block.conv_shortcut, last):
        layer.weight[rows] = 0.0
        layer.bias[rows] = 0.0
    block.conv_shortcut.bias[rows] = INITIAL_OUTPUT
    taps = torch.tensor([0.25, 0.5, 0.25])
    for row in rows:
        last.weight[row, row] = taps[:, None] * taps


def mask_gradients(unet: Net, position: bool) -> None:
    """Let training change only the position lane, or everything else."""
    for name, parameter in inner_layers(unet).named_parameters():
        if "temporal" in name or "time_" in name or "attentions" in name:
            parameter.requires_grad_(False)
            continue
        lane = torch.arange(len(parameter)) < POSITION_CHANNELS
        if parameter.ndim == 1:  # a vector may cover the skip connection too
            lane = torch.arange(len(parameter)) % UNET_WIDTH < POSITION_CHANNELS
        mask = torch.zeros_like(parameter)
        mask[lane if position else ~lane] = 1.0
        if name.startswith(f"level{2 * LEVELS - 3}.upsamplers"):
            mask[[OUTPUTS[output] for output in OUTPUT_NAMES]] = 0.0
        hook: Any = parameter.register_hook
        hook(lambda gradient, mask=mask: gradient * mask)


def scene_loss(unet: Net, scenes: Tensor, kernel: Tensor, generator: torch.Generator) -> Tensor:
    """Squared error of `near` and `drift` for `scenes` (n, 5, height, width) in [-1, 1]: photos and
    their depth annotations.

    Colours of the photos are varied, and noise is added as by SVD's noise augmentation.
    """
    photos, target = scenes[:, :3], F.avg_pool2d((scenes[:, 3:] + 1) / 2, PATCH)
    margin = (SMOOTH // 2,) * 4
    target = F.avg_pool2d(F.pad(target, margin, mode="replicate"), SMOOTH, stride=1)
    gain, shift, amount = (
        torch.rand((len(scenes), c, 1, 1), generator=generator) for c in (3, 3, 1)
    )
    photos = (0.8 + 0.4 * gain.to(photos.device)) * photos + 0.3 * (shift.to(photos.device) - 0.5)
    noise = 0.05 * amount * torch.randn(photos.shape, generator=generator)
    latents = encode(photos + noise.to(photos.device), kernel.to(photos.device))
    made = ChannelSlice(unet)(latents)[:, [OUTPUTS[name] for name in OUTPUT_NAMES]]
    return F.mse_loss(made.float(), target)


def position_loss(unet: Net) -> Tensor:
    """Squared error of the coordinates in cells, summed over the sizes.

    The sixth power is added, so that the worst cells count most.
    """
    total = torch.zeros(())
    for error in coordinate_errors(unet):
        total = total + error.square().mean() + 0.02 * error.abs().pow(6).mean().clamp(max=50.0)
    return total


def coordinate_errors(unet: Net) -> list[Tensor]:
    """Error of the coordinates of each size, (2, height, width), in cells."""
    differences = []
    for width, height in SIZES:
        shape = (LATENT_CHANNELS, height // PATCH, width // PATCH)
        made = ChannelSlice(unet, POSITION_CHANNELS)(torch.zeros(1, *shape))[0, :2]
        differences.append(made * CELL_UNIT - _coordinates(shape[2], shape[1]))
    return differences


@torch.no_grad()
def fit_coordinates(unet: Net, rounds: int = 150) -> None:
    """Fit the last layer of the position lane so that the largest error is as small as possible.

    Lawson's algorithm: iterated least squares, each cell weighted by its error so far.
    """
    conv = unet.up_blocks[-2].upsamplers[0].conv
    rows, targets = [], []
    for width, height in SIZES:
        shape = (1, LATENT_CHANNELS, height // PATCH, width // PATCH)
        seen = ChannelSlice(unet, POSITION_CHANNELS).features(torch.zeros(shape)).double()
        patches = F.unfold(seen, 3, padding=1)[0].T
        rows.append(torch.cat([patches, torch.ones(len(patches), 1)], dim=1))
        targets.append(
            _coordinates(width // PATCH, height // PATCH).flatten(1).T.double() / CELL_UNIT
        )
    features, target = torch.cat(rows), torch.cat(targets)
    for axis in (0, 1):
        weight = torch.ones(len(features), 1, dtype=torch.float64)
        best = float("inf")
        for _ in range(rounds):
            gram = features.T @ (weight * features)
            gram += 1e-10 * gram.diagonal().mean() * torch.eye(len(gram))
            solution = torch.linalg.solve(gram, features.T @ (weight[:, 0] * target[:, axis]))
            error = (features @ solution - target[:, axis]).abs()
            if float(error.max()) < best:
                best = float(error.max())
                conv.weight[axis, :POSITION_CHANNELS] = (
                    solution[:-1].reshape(POSITION_CHANNELS, 3, 3).float()
                )
                conv.bias[axis] = solution[-1].float()
            weight = weight * (error[:, None] / error.max() + 0.05)
            weight = weight / weight.mean()


def _coordinates(columns: int, rows: int) -> Tensor:
    """Coordinates x and y of every cell, (2, rows, columns)."""
    grids = torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy")
    return torch.stack(grids).float()
