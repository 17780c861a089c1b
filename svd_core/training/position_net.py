"""Position net: the channels of the inner levels that learn coordinates; loss, error, final fit."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.training.architecture import LATENT_CHANNELS, PATCH, SIZES, Net
from svd_core.training.channel_layout import UNIT
from svd_core.training.depth_net import POSITION_CHANNELS, ChannelSlice


def loss(unet: Net) -> Tensor:
    """Squared error of the coordinates, in cells, summed over the sizes; the sixth power is added
    so that the worst cells count most."""
    total = torch.zeros(())
    for error in errors(unet):
        total = total + error.square().mean() + 0.02 * error.abs().pow(6).mean().clamp(max=50.0)
    return total


def errors(unet: Net) -> list[Tensor]:
    """How far off the coordinates of each size are, (2, height, width), in cells."""
    found = []
    for width, height in SIZES:
        shape = (LATENT_CHANNELS, height // PATCH, width // PATCH)
        made = ChannelSlice(unet, POSITION_CHANNELS)(torch.zeros(1, *shape))[0, :2]
        found.append(made * UNIT - _coordinates(shape[2], shape[1]))
    return found


@torch.no_grad()
def final_fit(unet: Net, rounds: int = 150) -> None:
    """Fit the layer that gives the coordinates so that the worst cell is as good as can be.

    Lawson's algorithm: least squares again and again, each cell weighed by how wrong it has been.
    """
    conv = list(unet.up_blocks)[-2].upsamplers[0].conv
    rows, targets = [], []
    for width, height in SIZES:
        shape = (1, LATENT_CHANNELS, height // PATCH, width // PATCH)
        seen = ChannelSlice(unet, POSITION_CHANNELS).features(torch.zeros(shape)).double()
        patches = F.unfold(seen, 3, padding=1)[0].T
        rows.append(torch.cat([patches, torch.ones(len(patches), 1)], dim=1))
        targets.append(_coordinates(width // PATCH, height // PATCH).flatten(1).T.double() / UNIT)
    features, wanted = torch.cat(rows), torch.cat(targets)
    for axis in (0, 1):
        weight = torch.ones(len(features), 1, dtype=torch.float64)
        best = float("inf")
        for _ in range(rounds):
            gram = features.T @ (weight * features)
            gram += 1e-10 * gram.diagonal().mean() * torch.eye(len(gram))
            found = torch.linalg.solve(gram, features.T @ (weight[:, 0] * wanted[:, axis]))
            error = (features @ found - wanted[:, axis]).abs()
            if float(error.max()) < best:
                best = float(error.max())
                conv.weight[axis, :POSITION_CHANNELS] = (
                    found[:-1].reshape(POSITION_CHANNELS, 3, 3).float()
                )
                conv.bias[axis] = found[-1].float()
            weight = weight * (error[:, None] / error.max() + 0.05)
            weight = weight / weight.mean()


def _coordinates(columns: int, rows: int) -> Tensor:
    """x and y of every cell, (2, rows, columns)."""
    grids = torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy")
    return torch.stack(grids).float()
