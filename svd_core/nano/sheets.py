"""What training has reached, as a picture: the decoder's work and the scene net's, by example."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from svd_core.nano import decoder, scene, shape
from svd_core.nano.codec import encode
from svd_core.nano.photos import random_crop

if TYPE_CHECKING:
    from svd_core.nano.courses import Lessons

SAMPLES = 4


@torch.no_grad()
def draw_sample(lessons: "Lessons", path: Path) -> None:
    """Write a contact sheet to `path`, with the averaged weights as they were last saved: photos,
    what the decoder makes of their latents, and what the scene net finds near and drifting."""
    nets = lessons.nets()
    generator = torch.Generator().manual_seed(3)
    rows = []
    for photo in lessons.photos[:: len(lessons.photos) // SAMPLES + 1]:
        crop = random_crop(photo, shape.SIZES[0], generator)[None]
        latents = encode(crop, lessons.kernel)
        seen = scene.Lane(nets["unet"])(latents)
        maps = [seen[:, [scene.OUTPUTS[name]] * 3] * 2 - 1 for name in ("near", "drift")]
        maps = [
            part.repeat_interleave(shape.PATCH, 2).repeat_interleave(shape.PATCH, 3)
            for part in maps
        ]
        decoded = decoder.decode(nets["vae"].decoder, latents, linear=False)
        rows.append(torch.cat([crop, decoded, *maps], dim=3)[0])
    _picture(torch.cat(rows, dim=1)).save(path)


def _picture(pixels: Tensor) -> Image.Image:
    bytes_ = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(bytes_.permute(1, 2, 0).contiguous().numpy())
