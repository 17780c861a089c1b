"""Depth annotations: polygons drawn by hand that say what is near and what may drift."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from svd_core.errors import SvdError

ANNOTATIONS = Path(__file__).with_name("data") / "depth_annotations.json"
"""Shapes by the first 12 digits of a photo's SHA-256, in painter's order from far to near."""

Point = tuple[float, float]


@dataclass(frozen=True)
class DepthShape:
    """A polygon, its points (x, y) as fractions of the photo's width and height.

    `near`: at its highest and lowest point and linear between them; 0 is the horizon, 1 touches the
    camera. `drift`: 1 for what moves by itself (clouds, water, smoke), 0.5 for what sways (leaves,
    cloth, animals), 0 for solid things.
    """

    near: tuple[float, float]
    drift: float
    polygon: tuple[Point, ...]


def load_annotations(path: Path = ANNOTATIONS) -> dict[str, tuple[DepthShape, ...]]:
    """The shapes of every photo, by the first 12 digits of its SHA-256.

    Raises `SvdError`, with the photo's name, for a shape that is wrong.
    """
    found = {}
    for name, shapes in json.loads(path.read_text(encoding="utf-8")).items():
        try:
            found[name] = tuple(_shape(**shape) for shape in shapes)
            if found[name][0].polygon != ((0, 0), (1, 0), (1, 1), (0, 1)):
                raise ValueError("the first shape does not cover the photo")
        except (TypeError, ValueError, IndexError) as error:
            raise SvdError(f"{path.name}: the sketch of photo {name} is wrong: {error}.") from error
    return found


def _shape(near: Any, polygon: Any, drift: Any = 0) -> DepthShape:
    top, bottom = near if isinstance(near, list) else (near, near)
    if len(polygon) < 3:
        raise ValueError("a polygon has fewer than three points")
    points = tuple((_fraction(x), _fraction(y)) for x, y in polygon)
    return DepthShape((_fraction(top), _fraction(bottom)), _fraction(drift), points)


def _fraction(value: Any) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is no number from 0 to 1")
    return float(value)


def draw(shapes: tuple[DepthShape, ...], width: int, height: int) -> tuple[Tensor, Tensor]:
    """(near, drift), float32 of shape (height, width) in [0, 1], with hard edges.

    A later shape hides what it covers of the earlier ones.
    """
    near, drift = torch.zeros(height, width), torch.zeros(height, width)
    rows = (torch.arange(height)[:, None] + 0.5) / height
    for shape in shapes:
        inside = _inside(shape.polygon, width, height)
        heights = [y for _, y in shape.polygon]
        down = (rows - min(heights)) / max(max(heights) - min(heights), 1 / height)
        top, bottom = shape.near
        near = torch.where(inside, top + (bottom - top) * down.clamp(0, 1), near)
        drift = drift.masked_fill(inside, shape.drift)
    return near, drift


def _inside(polygon: tuple[Point, ...], width: int, height: int) -> Tensor:
    mask = Image.new("L", (width, height))
    # Pillow counts from the middle of the first pixel, a sketch from its outer edge.
    points = [(x * width - 0.5, y * height - 0.5) for x, y in polygon]
    ImageDraw.Draw(mask).polygon(points, fill=1)
    return torch.from_numpy(np.array(mask, dtype=bool))
