"""Training stages of svd-nano, called courses, in their order: position, scene, decoder, clips.

All courses share photos, linear encoder and nets. Each saves its state in its own file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.errors import ToolFailed
from svd_core.training import (
    architecture,
    depth_net,
    diffusion_loss,
    initial_weights,
    vae,
    warp_attention,
)
from svd_core.training.dataset import random_crop, with_depth_annotations
from svd_core.training.trainer import TrainingRun


@dataclass(frozen=True)
class TrainingSize:
    """Size of the pictures that a course learns from, and how many make a batch.

    `scale`: of the clips' sizes. `clips`, `scenes`, `crops`: batch sizes of the courses `clips`,
    `scene` and `decoder`. `crop_side`: pixels of the decoder's squares.
    """

    scale: float
    clips: int
    scenes: int
    crops: int
    crop_side: int

    def sizes(self, scale: float = 1.0) -> list[tuple[int, int]]:
        """(width, height) in multiples of 32 pixels; landscape twice, like most photos."""
        landscape, portrait, square = (
            (int(w * self.scale * scale) // 32 * 32, int(h * self.scale * scale) // 32 * 32)
            for w, h in architecture.SIZES
        )
        return [landscape, landscape, portrait, square]


TRAINING_SIZES = {
    "tiny": TrainingSize(scale=0.25, clips=1, scenes=1, crops=1, crop_side=32),
    "cpu": TrainingSize(scale=1.0, clips=1, scenes=4, crops=6, crop_side=128),
    "gpu": TrainingSize(scale=1.0, clips=16, scenes=32, crops=64, crop_side=256),
}


COURSES = ("position", "scene", "decoder", "clips")


class TrainingContext:
    """Context of all courses: photos, linear encoder, and the nets with their state so far.

    `state`: folder with the state of each course, and with the encoder that all of them use. Raises
    `SvdError` if a course needs another one that has not been trained yet.
    """

    def __init__(
        self, state: Path, photos: dict[str, Tensor], dial: TrainingSize, device: str
    ) -> None:
        self.state, self.size, self.device = state, dial, device
        self.photos = list(photos.values())
        self._named = photos
        self.kernel = self._kernel()
        self.shift_matrices = self._shift_matrices()
        self.spread = self._spread()

    def nets(self) -> dict[str, architecture.Net]:
        """`unet` and `image_encoder` as trained so far by `position`, `scene` and `clips`, and the
        `vae` as trained by `decoder`."""
        torch.manual_seed(0)
        nets = architecture.nets()
        initial_weights.initialize(nets["unet"], self.shift_matrices)
        depth_net.prepare(nets["unet"])
        inner = depth_net.inner_layers(nets["unet"])
        self._load_average("position", {"inner": inner})
        self._load_final_position(nets["unet"], inner)
        depth_net.connect_photo_input(nets["unet"], self.spread)
        self._load_average("scene", {"inner": inner})
        self._load_average("clips", {name: nets[name] for name in ("unet", "image_encoder")})
        vae.install_encoder(nets["vae"].encoder, nets["vae"].quant_conv, self.kernel)
        vae.prepare_decoder(nets["vae"])
        self._load_average("decoder", {"decoder": nets["vae"].decoder})
        return nets

    def position(self) -> TrainingRun:
        """Train coordinates of every size from zero padding alone. Needs no photos."""
        unet = self.nets()["unet"]
        depth_net.mask_gradients(unet, position=True)
        modules = {"inner": depth_net.inner_layers(unet)}
        return TrainingRun(
            self.state / "position.pt", modules, lambda _: depth_net.position_loss(unet),
            rate=2e-3, half_life=900, device=self.device, half_precision=False, muon=False,
        )  # fmt: skip

    def scene(self) -> TrainingRun:
        """Train depth and drift on photos with depth annotations."""
        if not (self.state / "position.pt").exists():
            raise ToolFailed("Train the course `position` first: `scene` builds on it.")
        unet, scenes = self.nets()["unet"], with_depth_annotations(self._named)
        depth_net.mask_gradients(unet, position=False)

        def draw_loss(generator: torch.Generator) -> Tensor:
            half = course.step < depth_net.HALF_SIZE_STEPS
            count = self.size.scenes * (2 if half else 1)
            course.clips += count
            crops = self._crops(scenes, count, generator, 0.5 if half else 1.0)
            return depth_net.scene_loss(unet, crops.to(self.device), self.kernel, generator)

        modules = {"inner": depth_net.inner_layers(unet)}
        course = TrainingRun(
            self.state / "scene.pt", modules, draw_loss,
            rate=5e-4, half_life=1500, device=self.device, muon=False,
        )  # fmt: skip
        return course

    def decoder(self) -> TrainingRun:
        """Train the decoder, also on latents whose content has shifted within the cells."""
        decoder = self.nets()["vae"].decoder

        def draw_loss(generator: torch.Generator) -> Tensor:
            course.clips += self.size.crops
            pairs = [self._shifted_crop(generator) for _ in range(self.size.crops)]
            latents, pixels = (torch.cat(part).to(self.device) for part in zip(*pairs, strict=True))
            decoded = vae.decode(decoder, latents, linear=course.step < vae.LINEAR_STEPS)
            return vae.decoder_loss(decoded.float(), pixels)

        course = TrainingRun(
            self.state / "decoder.pt", {"decoder": decoder}, draw_loss,
            rate=1e-3, half_life=2500, device=self.device,
        )  # fmt: skip
        return course

    def clips(self) -> TrainingRun:
        """Train the whole UNet on whole clips, as Stable Video Diffusion is trained.

        The rate is low, since the UNet moves photos from the start.
        """
        nets, scenes = self.nets(), with_depth_annotations(self._named)
        modules = {name: nets[name] for name in ("unet", "image_encoder")}

        def draw_loss(generator: torch.Generator) -> Tensor:
            course.clips += self.size.clips
            crops = list(self._crops(scenes, self.size.clips, generator))
            batch = diffusion_loss.draw_batch(crops, self.kernel, generator).to(self.device)
            return diffusion_loss.diffusion_loss(nets["unet"], nets["image_encoder"], batch).mean()

        course = TrainingRun(
            self.state / "clips.pt", modules, draw_loss,
            rate=1e-7, half_life=8000, device=self.device, half_precision=False,
        )  # fmt: skip
        return course

    @torch.no_grad()
    def _load_average(self, name: str, modules: dict[str, nn.Module]) -> None:
        """Load the averaged weights of course `name` into `modules`, if it has any."""
        path = self.state / f"{name}.pt"
        if path.exists():
            average = torch.load(path, map_location="cpu", weights_only=True)["average"]
            for prefix, module in modules.items():
                for key, parameter in module.named_parameters():
                    parameter.copy_(average.get(f"{prefix}.{key}", parameter))

    def _load_final_position(self, unet: architecture.Net, inner: nn.Module) -> None:
        """Load the final fit of `position`, which is computed once after each training."""
        trained, settled = self.state / "position.pt", self.state / "settled.pt"
        if not trained.exists():
            return
        if not settled.exists() or settled.stat().st_mtime < trained.stat().st_mtime:
            depth_net.fit_coordinates(unet)
            torch.save(inner.state_dict(), settled)
        inner.load_state_dict(torch.load(settled, weights_only=True))

    def _crops(
        self, scenes: list[Tensor], count: int, generator: torch.Generator, scale: float = 1.0
    ) -> Tensor:
        if not scenes:
            raise ToolFailed("None of the photos has a depth sketch; fetch those of the list.")
        size = self.size.sizes(scale)[int(torch.randint(4, (), generator=generator))]
        chosen = [_random_photo(scenes, generator) for _ in range(count)]
        return torch.stack([random_crop(photo, size, generator) for photo in chosen])

    def _shifted_crop(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents, as of the UNet, of a photo shifted by half pixels, with a little noise, and the
        true pixels."""
        # Pixels of the photo at twice the size.
        side, patch = 2 * self.size.crop_side, 2 * architecture.PATCH
        photo = _random_photo(self.photos, generator)
        large = random_crop(photo, (side + patch, side + patch), generator, smallest=0.2)[None]
        x, y = (int(torch.randint(patch, (), generator=generator)) for _ in range(2))
        if torch.rand((), generator=generator) < 0.4:
            x = y = 0
        latents = vae.encode(F.avg_pool2d(large, 2), self.kernel)
        latents = warp_attention.shift_latents(latents, self.shift_matrices, x / 2, y / 2)
        amount = vae.LATENT_NOISE * torch.rand((), generator=generator)
        latents = latents + amount * torch.randn(latents.shape, generator=generator)
        return latents, F.avg_pool2d(large[..., y : y + side, x : x + side], 2)

    def _kernel(self) -> Tensor:
        def fit() -> Tensor:
            generator = torch.Generator().manual_seed(1)
            crops = [random_crop(p, (512, 288), generator) for p in self.photos for _ in range(2)]
            return vae.encoding_kernel(*vae.principal_components(crops))

        kernel: Tensor = self._cached("codec", fit)
        return kernel

    def _spread(self) -> Tensor:
        """Standard deviation of each latent, (channels,)."""
        return vae.encode(torch.stack(self._dozen((512, 288), 3)), self.kernel).std(dim=(0, 2, 3))

    def _shift_matrices(self) -> tuple[Tensor, Tensor]:
        fine, gain = warp_attention.KNOTS_PER_PIXEL, warp_attention.SHIFT_GAIN

        def fit() -> tuple[Tensor, Tensor]:
            crops = self._dozen((256 * fine, 144 * fine), 2)
            return warp_attention.fit_latent_shift(crops, self.kernel)

        along_x, along_y = self._cached(f"bends-{fine}-{gain:g}", fit)
        return along_x, along_y

    def _cached(self, name: str, compute: Callable[[], Any]) -> Any:
        """The content of a file of `state`, computed by the first call."""
        path = self.state / f"{name}.pt"
        if not path.exists():
            torch.save(compute(), path)
        return torch.load(path, weights_only=True)

    def _dozen(self, size: tuple[int, int], seed: int) -> list[Tensor]:
        """Crops of about twelve photos."""
        generator = torch.Generator().manual_seed(seed)
        chosen = self.photos[:: len(self.photos) // 12 + 1]
        return [random_crop(photo, size, generator) for photo in chosen]


def _random_photo(photos: list[Tensor], generator: torch.Generator) -> Tensor:
    return photos[int(torch.randint(len(photos), (), generator=generator))]
