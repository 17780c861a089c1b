"""Baselines of the evaluation: a checkpoint, and the upper and lower bounds beside it.

The upper bound uses synthetic clips with known motion, a photo under a moving camera. As in a
perfect model of that motion, the seed decides the direction, and bucket and fps the speed.
"""

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.Image import Resampling
from torch import Tensor
from transformers import CLIPVisionConfig

from svd_core.benchmarks.vs_diffusers.timing import decode_clip
from svd_core.checkpoints.memory_plan import opens_in_half, plan_memory
from svd_core.checkpoints.table import Checkpoint
from svd_core.engine.engine import Engine
from svd_core.engine.pipeline_loader import CLASSES, find_device, model_sizes, open_folder, place
from svd_core.events import Progress
from svd_core.media.image import Box, Size, crop_box, frame_photo
from svd_core.params import VideoParams
from svd_core.training.clip_metrics import Frame
from svd_core.training.motion_model import speed
from svd_core.types import Frames


@dataclass(frozen=True)
class Sample:
    """A clip, the framed photo it has to start from, and the seconds it took."""

    photo: Frame
    frames: Frames
    seconds: float


Baseline = Callable[[Image.Image, VideoParams], Sample]
"""Makes the clip of an upright RGB photo of any size. Raises `SvdError`s."""


def checkpoint_model(engine: Engine) -> Baseline:
    """A checkpoint, run by the engine as the app runs it."""

    def generate(photo: Image.Image, params: VideoParams) -> Sample:
        model = engine.load(_ignore)
        framed = frame_photo(photo, model.checkpoint.sizes, params).image
        started = time.perf_counter()
        clip = model.generate(framed, params, _ignore)
        return Sample(np.asarray(framed), clip.frames, time.perf_counter() - started)

    return generate


def still_image(checkpoint: Checkpoint) -> Baseline:
    """The framed photo, repeated: a lower bound that only the figures of likeness accept."""

    def generate(photo: Image.Image, params: VideoParams) -> Sample:
        framed = np.asarray(frame_photo(photo, checkpoint.sizes, params).image)
        return Sample(framed, np.stack([framed] * checkpoint.num_frames), 0.0)

    return generate


class Vae:
    """The VAE of a checkpoint, on the device and in the precision that the engine uses."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        assert checkpoint.folder is not None
        device = find_device()
        pipeline = open_folder(
            checkpoint.folder, opens_in_half(device, checkpoint), lambda *_: None
        )
        chosen = plan_memory(device, checkpoint, model_sizes(pipeline), "none")
        place(pipeline, chosen)
        self.size = checkpoint.sizes[0]
        self._vae = pipeline.vae
        self._chunk_size = chosen.decode_chunk_size

    @torch.no_grad()
    def reconstruct(self, pixels: Tensor) -> Frames:
        """`pixels` of shape (n, 3, height, width), -1..1, encoded and decoded as one clip."""
        weight = next(self._vae.encoder.parameters())
        latents = [
            self._vae.encode(frame.to(weight.device, weight.dtype)).latent_dist.mode()
            for frame in torch.split(pixels, 1)  # one at a time, for memory
        ]
        scaled = self._vae.config.scaling_factor * torch.cat(latents)
        return decode_clip(self._vae, scaled, self._chunk_size)

    def reconstruct_photo(self, photo: Frame) -> Frame:
        """`photo` encoded and decoded alone."""
        frame: Frame = self.reconstruct(_to_tensor(photo[None]))[0]
        return frame


ROOM = 0.8
"""Share of the sides of the cropped photo that the camera sees; it moves within the rest."""

PAN = 0.004
"""Pan per frame at bucket 127 and 7 fps, as a share of the sides of the view."""

ZOOM = 0.002
"""Largest zoom per frame, as a share of the view."""


@dataclass(frozen=True)
class SyntheticCamera:
    """Motion per frame at bucket 127 and 7 fps of a camera that looks at a part of a photo.

    It stays inside the photo, so that nothing has to be invented. `right`, `down`: shares of the
    sides of the view. `zoom`: logarithm of the factor by which the view shrinks.
    """

    right: float
    down: float
    zoom: float

    @classmethod
    def random(cls, seed: int) -> "SyntheticCamera":
        generator = np.random.default_rng(seed)
        angle = generator.uniform(0, 2 * math.pi)
        zoom = generator.uniform(-ZOOM, ZOOM)
        return cls(PAN * math.cos(angle), PAN * math.sin(angle), zoom)

    def view(self, photo: Size, size: Size, at: float) -> Box:
        """Part of `photo` in view after `at` frames of motion; 0 is the middle of the path."""
        left, top, right, bottom = crop_box(photo, size)
        width, height = (right - left) * ROOM, (bottom - top) * ROOM
        x = (left + right) / 2 + at * self.right * width
        y = (top + bottom) / 2 + at * self.down * height
        half_width, half_height = (side / 2 * math.exp(-at * self.zoom) for side in (width, height))
        box = x - half_width, y - half_height, x + half_width, y + half_height
        if box[0] < left or box[1] < top or box[2] > right or box[3] > bottom:
            raise ValueError(f"the camera leaves the photo after {at:.1f} frames")
        return box


def true_clip(
    photo: Image.Image, camera: SyntheticCamera, size: Size, params: VideoParams, num_frames: int
) -> Frames:
    """Render the clip that `camera` takes of `photo`."""
    pace = speed(params.motion_bucket_id, params.fps)
    times = [pace * (t - (num_frames - 1) / 2) for t in range(num_frames)]
    views = [camera.view(photo.size, size, t) for t in times]
    return np.stack([np.asarray(photo.resize(size, Resampling.LANCZOS, view)) for view in views])


def vae_only(vae: Vae, checkpoint: Checkpoint) -> Baseline:
    """Clips of known motion through the VAE alone: the upper bound of any UNet.

    Noise is added to the pixels before they are encoded, as the pipeline adds it to its photo.
    """

    def generate(photo: Image.Image, params: VideoParams) -> Sample:
        started = time.perf_counter()
        size = frame_photo(photo, checkpoint.sizes, params).size
        camera = SyntheticCamera.random(params.seed)
        true = true_clip(photo, camera, size, params, checkpoint.num_frames)
        pixels = _to_tensor(true)
        generator = torch.Generator("cpu").manual_seed(params.seed)
        noise = torch.randn(pixels.shape, generator=generator)
        frames = vae.reconstruct(pixels + params.noise_aug_strength * noise)
        return Sample(true[0], frames, time.perf_counter() - started)

    return generate


def untrained(checkpoint: Path, folder: Path) -> Path:
    """Write into `folder` a checkpoint of the same configuration with fresh random weights."""
    shutil.copytree(
        checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.bin", "*.md")
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for part, kind in CLASSES.items():
            _random_model(kind, checkpoint / part).save_pretrained(folder / part)
    return folder


def _random_model(kind: Any, folder: Path) -> Any:
    if hasattr(kind, "load_config"):  # a class of diffusers
        return kind.from_config(kind.load_config(folder))
    return kind(CLIPVisionConfig.from_pretrained(folder))


def _to_tensor(frames: Frames) -> Tensor:
    """uint8 (n, height, width, 3) as float (n, 3, height, width), -1..1."""
    return torch.from_numpy(frames.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1


def _ignore(_: Progress) -> None:
    pass
