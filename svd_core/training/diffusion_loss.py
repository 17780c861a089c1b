"""Diffusion loss of the UNet on rendered clips, conditioned as in the SVD pipeline.

Training clips are photos in front of a moving camera, with parallax by depth. Drifting things have
their own motion. The noise of a clip decides its motion, as in `motion_model`.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from svd_core.training.architecture import NUM_FRAMES, PATCH, SIGMA_MAX, SIGMA_MIN, Net
from svd_core.training.motion_model import motion, places
from svd_core.training.vae import encode

FIRST_STEP_SHARE = 0.6
"""Share of clips at the highest noise level. Motion is tied to the noise, so the first step decides
nearly everything. The other levels, drawn evenly in log(sigma), only refine it."""

NOISE_AUG_LOG_MEAN, NOISE_AUG_LOG_STD = -3.0, 1.0
"""SVD's mean (arXiv 2311.15127, D.3) and twice its deviation, for a wider range of levels."""

FPS = (5, 30)


@dataclass(frozen=True)
class TrainingBatch:
    """Batch of training clips: clean latents and noise (n, frames, channels, height, width),
    photo latents (n, channels, height, width), 224-pixel photos for CLIP, sigmas (n,), added ids
    (n, 3): fps - 1, bucket, noise_aug_strength."""

    clean: Tensor
    noise: Tensor
    photo: Tensor
    clip_pixels: Tensor
    sigma: Tensor
    ids: Tensor

    def to(self, device: str) -> "TrainingBatch":
        return TrainingBatch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def draw_batch(
    scenes: list[Tensor], kernel: Tensor, generator: torch.Generator, num_frames: int = NUM_FRAMES
) -> TrainingBatch:
    """Draw a batch of one clip per scene. `scenes`: photo, near and drift as channels (5, height,
    width) in [-1, 1], all of one size."""
    singles = [_draw_one(scene, kernel, generator, num_frames) for scene in scenes]
    names = [f.name for f in fields(TrainingBatch)]
    return TrainingBatch(
        **{name: torch.cat([getattr(one, name) for one in singles]) for name in names}
    )


def _draw_one(
    scene: Tensor, kernel: Tensor, generator: torch.Generator, num_frames: int
) -> TrainingBatch:
    photo = scene[:3]
    near, drift = F.avg_pool2d((scene[3:] + 1) / 2, PATCH)
    noise = torch.randn(num_frames, len(kernel), *near.shape, generator=generator)
    bucket = float(torch.randint(1, 256, (), generator=generator))
    fps = 7.0  # half of the time, as it is the most common request
    if torch.rand((), generator=generator) < 0.5:
        fps = float(torch.randint(FPS[0], FPS[1] + 1, (), generator=generator))
    frames = render_clip(photo, near, drift, noise, bucket, fps)
    log_aug = NOISE_AUG_LOG_MEAN + NOISE_AUG_LOG_STD * torch.randn((), generator=generator)
    aug = log_aug.exp().clamp(max=1.0)
    noisy = photo + aug * torch.randn(photo.shape, generator=generator)
    sigma = SIGMA_MAX * (SIGMA_MIN / SIGMA_MAX) ** torch.rand((), generator=generator)
    if torch.rand((), generator=generator) < FIRST_STEP_SHARE:
        sigma = torch.tensor(SIGMA_MAX)
    return TrainingBatch(
        clean=encode(frames, kernel)[None],
        noise=noise[None],
        photo=encode(noisy[None], kernel),
        clip_pixels=F.interpolate(photo[None], (224, 224), mode="bicubic", antialias=True),
        sigma=sigma[None],
        ids=torch.tensor([[fps - 1, bucket, float(aug)]]),
    )


def render_clip(
    photo: Tensor, near: Tensor, drift: Tensor, noise: Tensor, motion_bucket_id: float, fps: float
) -> Tensor:
    """Render frames (num_frames, 3, height, width) of `photo` (3, height, width) with parallax.

    Frame 0 is the photo. `near`, `drift`: (height / 4, width / 4) in 0..1. `noise`: (num_frames,
    channels, height / 4, width / 4); it decides the motion, see `motion_model`. Nothing comes from
    beyond the edges, so the frames depend only on what the model sees.
    """
    num_frames, _, rows, columns = noise.shape
    from_x, from_y = places(motion(noise, motion_bucket_id, fps), near, drift)
    moved = torch.stack(
        [from_x - torch.arange(columns), from_y - torch.arange(rows)[:, None]], dim=1
    )
    moved = PATCH * F.interpolate(moved, scale_factor=float(PATCH), mode="bilinear")
    _, height, width = photo.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    here = torch.stack([x, y], dim=-1) + moved.permute(0, 2, 3, 1)
    frames = F.grid_sample(
        photo.expand(num_frames, -1, -1, -1),
        (here + 0.5) * 2 / torch.tensor([width, height]) - 1,
        mode="bicubic",
        padding_mode="reflection",
        align_corners=False,
    )
    return frames.clamp(-1, 1)


def diffusion_loss(unet: Net, image_encoder: Net, batch: TrainingBatch) -> Tensor:
    """Squared error of v for each clip and frame, shape (n, frames).

    With x = clean + sigma noise, the net gets x / sqrt(sigma^2 + 1) and log(sigma) / 4. It
    predicts v = (noise - sigma clean) / sqrt(sigma^2 + 1), as EulerDiscreteScheduler expects.
    """
    n, frames = batch.clean.shape[:2]
    sigma = batch.sigma.view(-1, 1, 1, 1, 1)
    scale = (sigma**2 + 1).sqrt()
    seen = (batch.clean + sigma * batch.noise) / scale
    target = (batch.noise - sigma * batch.clean) / scale
    pixels = (batch.clip_pixels + 1) / 2
    mean, deviation = (
        pixels.new_tensor(v).view(3, 1, 1) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    )
    embeds = image_encoder((pixels - mean) / deviation).image_embeds[:, None]
    photo = batch.photo[:, None].expand(-1, frames, -1, -1, -1)
    answer = unet(
        torch.cat([seen, photo], dim=2),
        batch.sigma.log() / 4,
        encoder_hidden_states=embeds,
        added_time_ids=batch.ids,
        return_dict=False,
    )[0]
    error: Tensor = (answer.float() - target).square().mean(dim=(2, 3, 4))
    return error
