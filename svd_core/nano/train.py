"""`python -m svd_core.nano.train`: make svd-nano from a folder of photos, on a CPU or on CUDA.

Two courses, in any order and side by side: `decoder` (latents back to pixels) and `unet` (the
motion). Each keeps its state in `--state` and goes on from there, however it ended. `--export`
writes the checkpoint folder from whatever both have reached.
"""

import argparse
import logging
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svd_core.errors import SvdError
from svd_core.nano import codec, decoder, denoising, operators, shape, warping
from svd_core.nano.course import Course
from svd_core.nano.export import adopt, export
from svd_core.nano.photos import fetch_photos, load_photos, random_crop

SAVE_EVERY = 100
REPORT_EVERY = 50


@dataclass(frozen=True)
class Dial:
    """The one size dial: how large the clips are that a course learns from, and how many at once.

    Half size costs a quarter and teaches the same motions in pixels.
    """

    scale: float
    clips: int
    crops: int
    crop_side: int

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(width, height), landscape twice: it is what most photos are. Multiples of 16 pixels."""
        landscape, portrait, square = (
            (int(w * self.scale) // 16 * 16, int(h * self.scale) // 16 * 16) for w, h in shape.SIZES
        )
        return [landscape, landscape, portrait, square]


DIALS = {
    "tiny": Dial(scale=0.125, clips=1, crops=1, crop_side=32),
    "half": Dial(scale=0.5, clips=3, crops=6, crop_side=128),
    "full": Dial(scale=1.0, clips=1, crops=2, crop_side=256),
    "gpu": Dial(scale=1.0, clips=16, crops=32, crop_side=256),
}


def unet_course(
    state: Path, photos: list[Tensor], kernel: Tensor, dial: Dial, device: str
) -> Course:
    kernel = kernel.cpu()
    modules = first_weights(photos, kernel)
    unet, image_encoder = modules["unet"], modules["image_encoder"]

    def draw_loss(generator: torch.Generator) -> Tensor:
        size = dial.sizes[int(torch.randint(4, (), generator=generator))]
        chosen = [_any(photos, generator) for _ in range(dial.clips)]
        crops = [random_crop(photo, size, generator) for photo in chosen]
        batch = denoising.draw(crops, kernel, generator).to(device)
        course.clips += dial.clips
        return denoising.loss(unet, image_encoder, batch).mean()

    course = Course(state / "unet.pt", modules, draw_loss, rate=1e-5, half_life=8000, device=device)
    course.resume()
    return course


def decoder_course(
    state: Path, photos: list[Tensor], kernel: Tensor, dial: Dial, device: str
) -> Course:
    vae = shape.vae()
    decoder.prepare(vae)
    kernel = kernel.to(device)

    def draw_loss(generator: torch.Generator) -> Tensor:
        side = (dial.crop_side, dial.crop_side)
        chosen = [_any(photos, generator) for _ in range(dial.crops)]
        crops = [random_crop(photo, side, generator, smallest=0.2) for photo in chosen]
        pixels = torch.stack(crops).to(device)
        latents = codec.encode(pixels, kernel)
        amount = decoder.LATENT_NOISE * torch.rand((len(crops), 1, 1, 1), generator=generator)
        noise = amount * torch.randn(latents.shape, generator=generator)
        noisy = (latents + noise.to(device)).contiguous(memory_format=torch.channels_last)
        still = torch.zeros(len(crops), 1, device=device)
        course.clips += dial.crops
        return decoder.loss(vae.decoder(noisy, still, 1).float(), pixels)

    modules = {"decoder": vae.decoder}
    course = Course(
        state / "decoder.pt", modules, draw_loss, rate=1e-3, half_life=4000, device=device
    )
    course.resume()
    return course


COURSES = {"unet": unet_course, "decoder": decoder_course}


def first_weights(photos: list[Tensor], kernel: Tensor) -> dict[str, shape.Net]:
    """UNet and image encoder as training begins: the net already moves photos (see `warping`)."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(2)
    crops = [
        random_crop(photo, (256, 144), generator) for photo in photos[:: len(photos) // 12 + 1]
    ]
    modules = {"unet": shape.unet(), "image_encoder": shape.image_encoder()}
    warping.initialise(modules["unet"], operators.fit(crops, kernel))
    return modules


def codec_kernel(state: Path, photos: list[Tensor]) -> Tensor:
    """The codec's kernel, made once from the photos and then kept: both courses depend on it."""
    path = state / "codec.pt"
    if path.exists():
        kernel: Tensor = torch.load(path, weights_only=True)
        return kernel
    generator = torch.Generator().manual_seed(1)
    crops = [random_crop(photo, (512, 288), generator) for photo in photos for _ in range(2)]
    kernel = codec.encoding_kernel(*codec.principal_components(crops))
    torch.save(kernel, path)
    return kernel


def reporter(seconds: float) -> Any:
    """A callback that prints a line every so often and keeps the state safe."""
    recent: deque[float] = deque(maxlen=REPORT_EVERY)
    began: list[float] = []

    def on_step(course: Course, loss: float) -> None:
        recent.append(loss)
        began.append(course.seconds) if not began else None
        left = max(0.0, seconds - (course.seconds - began[0]))
        if course.step % REPORT_EVERY == 0:
            mean = sum(recent) / len(recent)
            print(
                f"step {course.step}  loss {mean:.4f}  seen {course.clips}  "
                f"trained {course.seconds / 60:.0f} min  left {left / 60:.0f} min",
                flush=True,
            )
        if course.step % SAVE_EVERY == 0:
            course.save()

    return on_step


def _any(photos: list[Tensor], generator: torch.Generator) -> Tensor:
    return photos[int(torch.randint(len(photos), (), generator=generator))]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m svd_core.nano.train", description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos to learn from")
    parser.add_argument("--fetch", action="store_true", help="fill it from Debian packages first")
    parser.add_argument("--state", type=Path, required=True, help="folder for the training state")
    parser.add_argument("--adopt", type=Path, help="begin a new state from this checkpoint folder")
    parser.add_argument("--course", choices=sorted(COURSES), help="what to train")
    parser.add_argument("--dial", choices=sorted(DIALS), default="half", help="size of the work")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long to train")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 takes all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--export", type=Path, help="write the checkpoint folder at the end")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    options.state.mkdir(parents=True, exist_ok=True)
    try:
        if options.fetch:
            fetch_photos(options.photos)
        photos = load_photos(options.photos)
        if options.adopt and not (options.state / "codec.pt").exists():
            adopt(options.adopt, options.state)
        kernel = codec_kernel(options.state, photos)
        if options.course:
            dial = DIALS[options.dial]
            course = COURSES[options.course](options.state, photos, kernel, dial, options.device)
            course.train(options.minutes * 60, reporter(options.minutes * 60))
            course.save()
        if options.export:
            export(options.state, kernel, first_weights(photos, kernel), options.export)
    except SvdError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
