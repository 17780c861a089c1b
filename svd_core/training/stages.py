"""Training stages of svd-nano in their order: position, scene, decoder, clips.

Somewhat long: the courses share photos, codec and nets, and are best read side by side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name

from svd_core.errors import SvdError
from svd_core.training import (
    architecture,
    decoder_training,
    depth_net,
    diffusion_loss,
    initial_weights,
    latent_shift,
    linear_codec,
    position_net,
)
from svd_core.training.dataset import random_crop, with_depth_annotations
from svd_core.training.trainer import TrainingRun


@dataclass(frozen=True)
class TrainingSize:
    """The one size dial: how large the pictures are that a course learns from, how many at once.

    `scale`: of the clips' sizes. `clips`, `scenes`, `crops`: in a batch of the courses `clips`,
    `scene` and `decoder`. `crop_side`: pixels of the decoder's squares.
    """

    scale: float
    clips: int
    scenes: int
    crops: int
    crop_side: int

    def sizes(self, scale: float = 1.0) -> list[tuple[int, int]]:
        """(width, height), landscape twice: it is what most photos are. Multiples of 32 pixels."""
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


class TrainingContext:
    """All that the courses share: photos, their codec, and nets as far as they have come.

    `state`: folder with the state of each course, and the codec that all of them depend on.
    Raises `SvdError` where a course needs one that has not been taken yet.
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
        """`unet` and `image_encoder` as far as `position`, `scene` and `clips` have brought them,
        the `vae` as far as `decoder` has."""
        torch.manual_seed(0)
        nets = {
            "unet": architecture.unet(),
            "image_encoder": architecture.image_encoder(),
            "vae": architecture.vae(),
        }
        initial_weights.initialize(nets["unet"], self.shift_matrices)
        depth_net.prepare(nets["unet"])
        inner = depth_net.inner_layers(nets["unet"])
        self._load_average("position", {"inner": inner})
        self._load_final_position(nets["unet"], inner)
        depth_net.connect_photo_input(nets["unet"], self.spread)
        self._load_average("scene", {"inner": inner})
        self._load_average("clips", {name: nets[name] for name in ("unet", "image_encoder")})
        linear_codec.install(nets["vae"].encoder, nets["vae"].quant_conv, self.kernel)
        decoder_training.prepare(nets["vae"])
        self._load_average("decoder", {"decoder": nets["vae"].decoder})
        return nets

    def position(self) -> TrainingRun:
        """Coordinates of every size from zero padding alone. Needs no photos."""
        unet = self.nets()["unet"]
        depth_net.mask_gradients(unet, position=True)
        return self._run(
            "position",
            {"inner": depth_net.inner_layers(unet)},
            lambda _: position_net.loss(unet),
            rate=2e-3,
            half_life=900,
            half_precision=False,
            muon=False,
        )

    def scene(self) -> TrainingRun:
        """What is near and what drifts, from photos with depth sketches."""
        if not (self.state / "position.pt").exists():
            raise SvdError("Train the course `position` first: `scene` builds on it.")
        unet, scenes = self.nets()["unet"], with_depth_annotations(self._named)
        depth_net.mask_gradients(unet, position=False)

        def draw_loss(generator: torch.Generator) -> Tensor:
            half = course.step < depth_net.HALF_SIZE_STEPS
            count = self.size.scenes * (2 if half else 1)
            course.clips += count
            crops = self._crops(scenes, count, generator, 0.5 if half else 1.0)
            return depth_net.scene_loss(unet, crops.to(self.device), self.kernel, generator)

        inner: dict[str, nn.Module] = {"inner": depth_net.inner_layers(unet)}
        course = self._run("scene", inner, draw_loss, rate=5e-4, half_life=1500, muon=False)
        return course

    def decoder(self) -> TrainingRun:
        """From latents back to pixels, also where a cell's content has slid."""
        vae = self.nets()["vae"]

        def draw_loss(generator: torch.Generator) -> Tensor:
            course.clips += self.size.crops
            pairs = [self._slid_crop(generator) for _ in range(self.size.crops)]
            latents, pixels = (torch.cat(part).to(self.device) for part in zip(*pairs, strict=True))
            linear = course.step < decoder_training.LINEAR_STEPS
            made = decoder_training.decode(vae.decoder, latents, linear)
            return decoder_training.loss(made.float(), pixels)

        modules: dict[str, nn.Module] = {"decoder": vae.decoder}
        course = self._run("decoder", modules, draw_loss, rate=1e-3, half_life=2500)
        return course

    def clips(self) -> TrainingRun:
        """The whole UNet on whole clips, as Stable Video Diffusion is trained; gently, since it
        moves photos before it begins."""
        nets, scenes = self.nets(), with_depth_annotations(self._named)
        unet, image_encoder = nets["unet"], nets["image_encoder"]

        def draw_loss(generator: torch.Generator) -> Tensor:
            course.clips += self.size.clips
            crops = list(self._crops(scenes, self.size.clips, generator))
            batch = diffusion_loss.draw_batch(crops, self.kernel, generator).to(self.device)
            return diffusion_loss.loss(unet, image_encoder, batch).mean()

        modules: dict[str, nn.Module] = {"unet": unet, "image_encoder": image_encoder}
        course = self._run(
            "clips", modules, draw_loss, rate=1e-7, half_life=8000, half_precision=False
        )
        return course

    def _run(
        self,
        name: str,
        modules: dict[str, nn.Module],
        draw_loss: Callable[[torch.Generator], Tensor],
        rate: float,
        half_life: int,
        half_precision: bool = True,
        muon: bool = True,
    ) -> TrainingRun:
        course = TrainingRun(
            self.state / f"{name}.pt",
            modules,
            draw_loss,
            rate,
            half_life,
            self.device,
            half_precision,
            muon,
        )
        course.resume()
        return course

    @torch.no_grad()
    def _load_average(self, name: str, modules: dict[str, nn.Module]) -> None:
        """Fill `modules` with the averaged weights of course `name`, if it has been begun."""
        path = self.state / f"{name}.pt"
        if path.exists():
            average = torch.load(path, map_location="cpu", weights_only=True)["average"]
            for prefix, module in modules.items():
                for key, parameter in module.named_parameters():
                    parameter.copy_(average.get(f"{prefix}.{key}", parameter))

    def _load_final_position(self, unet: architecture.Net, inner: nn.Module) -> None:
        """The end of `position`, found once and kept until that course goes on."""
        learnt, settled = self.state / "position.pt", self.state / "settled.pt"
        if not learnt.exists():
            return
        if not settled.exists() or settled.stat().st_mtime < learnt.stat().st_mtime:
            position_net.final_fit(unet)
            torch.save(inner.state_dict(), settled)
        inner.load_state_dict(torch.load(settled, weights_only=True))

    def _crops(
        self, scenes: list[Tensor], count: int, generator: torch.Generator, scale: float = 1.0
    ) -> Tensor:
        if not scenes:
            raise SvdError("None of the photos has a depth sketch; fetch those of the list.")
        size = self.size.sizes(scale)[int(torch.randint(4, (), generator=generator))]
        chosen = [_random_photo(scenes, generator) for _ in range(count)]
        return torch.stack([random_crop(photo, size, generator) for photo in chosen])

    def _slid_crop(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents as the UNet would make them of a photo that has slid by half pixels, with a
        little noise, and the true pixels."""
        side, patch = (
            2 * self.size.crop_side,
            2 * architecture.PATCH,
        )  # of the photo at twice the size
        photo = _random_photo(self.photos, generator)
        large = random_crop(photo, (side + patch, side + patch), generator, smallest=0.2)[None]
        x, y = (int(torch.randint(patch, (), generator=generator)) for _ in range(2))
        if torch.rand((), generator=generator) < 0.4:
            x = y = 0
        latents = linear_codec.encode(F.avg_pool2d(large, 2), self.kernel)
        latents = latent_shift.slide(latents, self.shift_matrices, x / 2, y / 2)
        amount = decoder_training.LATENT_NOISE * torch.rand((), generator=generator)
        latents = latents + amount * torch.randn(latents.shape, generator=generator)
        return latents, F.avg_pool2d(large[..., y : y + side, x : x + side], 2)

    def _kernel(self) -> Tensor:
        path = self.state / "codec.pt"
        if not path.exists():
            generator = torch.Generator().manual_seed(1)
            crops = [random_crop(p, (512, 288), generator) for p in self.photos for _ in range(2)]
            torch.save(
                linear_codec.encoding_kernel(*linear_codec.principal_components(crops)), path
            )
        kernel: Tensor = torch.load(path, weights_only=True)
        return kernel

    def _spread(self) -> Tensor:
        """Deviation of each latent, (channels,)."""
        generator = torch.Generator().manual_seed(3)
        chosen = self.photos[:: len(self.photos) // 12 + 1]
        crops = torch.stack([random_crop(photo, (512, 288), generator) for photo in chosen])
        return linear_codec.encode(crops, self.kernel).std(dim=(0, 2, 3))

    def _shift_matrices(self) -> tuple[Tensor, Tensor]:
        path = self.state / f"bends-{latent_shift.FINE}-{latent_shift.GAIN:g}.pt"
        if not path.exists():
            generator = torch.Generator().manual_seed(2)
            chosen = self.photos[:: len(self.photos) // 12 + 1]
            size = (256 * latent_shift.FINE, 144 * latent_shift.FINE)
            crops = [random_crop(photo, size, generator) for photo in chosen]
            torch.save(latent_shift.fit(crops, self.kernel), path)
        along_x, along_y = torch.load(path, weights_only=True)
        return along_x, along_y


def _random_photo(photos: list[Tensor], generator: torch.Generator) -> Tensor:
    return photos[int(torch.randint(len(photos), (), generator=generator))]
