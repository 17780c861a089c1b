"""Latent preview: a small animated WebP of a video while it is denoised."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

PREVIEWS_PER_VIDEO = 8
"""Most previews of a video, besides those of the first and the last step."""

MAX_BYTES = 150_000
"""Most bytes of a preview: 200 kB on their way to a page, which takes them as base64."""

SIZE_STEPS = ((256, 75), (256, 40), (128, 40), (128, 5))
"""(pixels of the longer side, WebP's quality), tried until a preview is small enough. The first
usually gives 70 kB. Latents have half its side, but are easier to read when enlarged smoothly."""

RIDGE, TINY = 1e-3, 1e-6
"""Weight of the ridge penalty, relative to the latents' variance and absolute: a photo of one
colour says nothing about the others."""


class LatentPreview:
    """Previews of one video, by a linear map from latents to colours.

    That is close to what the decoder does to a whole cell. The map is fitted to the photo and its
    latents, which every video begins with. So it suits any checkpoint and these very colours, and
    costs nothing. `rate`: frames per second.
    """

    def __init__(self, photo: Image.Image, num_steps: int, rate: int, scaling: float) -> None:
        self._photo = photo
        self._num_steps = num_steps
        self._rate = rate
        self._scaling = scaling
        self._factors: NDArray[np.float32] | None = None
        self._middle: tuple[NDArray[np.float32], NDArray[np.float32]]
        self._predicted: torch.Tensor | None = None

    @contextmanager
    def record(self, scheduler: Any) -> Iterator[None]:
        """Record `pred_original_sample` of each step of `scheduler`, until the context ends.

        The predicted clean latents show a form many steps before the latents themselves, which are
        noise until late.
        """
        step = scheduler.step

        def recorded_step(*args: Any, **kwargs: Any) -> Any:
            output = step(*args, **kwargs)
            self._predicted = output.pred_original_sample
            return output

        scheduler.step = recorded_step
        try:
            yield
        finally:
            del scheduler.step  # which restores the method of its class

    def fit(self, sample: torch.Tensor) -> None:
        """Fit the map to the photo.

        `sample`: input of the UNet, (batch, frames, 2 * channels, height, width). The photo's
        latents are in the second half of the channels, with guidance in the last of the batch.
        """
        channels = sample.shape[2] // 2
        latents = _to_cells(sample[-1, :1, channels:])
        height, width = sample.shape[-2:]
        small = self._photo.resize((width, height), Image.Resampling.BOX)
        colours = np.asarray(small, np.float32).reshape(-1, 3)
        self._middle = latents.mean(axis=0), colours.mean(axis=0)
        latents, colours = latents - self._middle[0], colours - self._middle[1]
        square = latents.T @ latents
        square += (RIDGE * np.diag(square).mean() + TINY) * np.eye(channels, dtype=np.float32)
        self._factors = np.linalg.solve(square, latents.T @ colours)

    def preview(self, step: int) -> bytes | None:
        """The preview after `step` steps, as an animated WebP; None if none is due."""
        every = -(-self._num_steps // PREVIEWS_PER_VIDEO)
        due = step in (1, self._num_steps) or step % every == 0
        if not due or self._factors is None or self._predicted is None:
            return None
        frames = self._predicted[0] / self._scaling
        number, _, height, width = frames.shape
        colours = (_to_cells(frames) - self._middle[0]) @ self._factors + self._middle[1]
        pictures = colours.reshape(number, height, width, 3).clip(0, 255).round().astype(np.uint8)
        return encode_webp(pictures, self._rate)


def encode_webp(pictures: NDArray[np.uint8], rate: int) -> bytes:
    """Encode `pictures` (number, height, width, 3) as an endless WebP of at most `MAX_BYTES`."""
    height, width = pictures.shape[1:3]
    for side, quality in SIZE_STEPS:
        scale = side / max(height, width)
        size = (round(width * scale), round(height * scale))
        frames = [Image.fromarray(p).resize(size, Image.Resampling.BICUBIC) for p in pictures]
        file = io.BytesIO()
        frames[0].save(
            file, "WEBP", save_all=True, append_images=frames[1:], duration=round(1000 / rate),
            loop=0, quality=quality, method=0,
        )  # fmt: skip
        if file.tell() <= MAX_BYTES:
            break
    return file.getvalue()


def _to_cells(latents: torch.Tensor) -> NDArray[np.float32]:
    """Latents (frames, channels, height, width) as a row for each cell, (cells, channels)."""
    rows: NDArray[np.float32] = latents.float().cpu().permute(0, 2, 3, 1).flatten(0, 2).numpy()
    return rows
