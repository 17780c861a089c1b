"""The UNet compiled ahead of time, as one package on disk, for one kind of clip.

Where each video is made by a fresh process (ZeroGPU), what torch compiles is gone with it. So the
UNet, as it has been rewritten, is exported as one graph when the model is loaded, and compiled once
for the clips that most ask for: the checkpoint's own size, length and guidance. A package holds
code and no weights: all constants of the graph are parameters, which the rewrites read when they
are called. Calls of its shapes go to the package, others to the UNet, as do all once it has failed.
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from svd_core.checkpoints.speed_modes import AccelerationConfig, AheadOfTime
from svd_core.engine.optimizations.torch_compile import CompileKey

SCALE = 8
"""Pixels to a place of the latents, in SVD's VAE."""

TIME_IDS = 3
"""Numbers told besides the photo: fps, motion and noise."""

ALIKE = 0.02
"""Share of the largest number by which a package's answer may be off: far more than rounding, also
in half precision. It is there for code that computes something else."""

log = logging.getLogger(__name__)

Question = tuple[Tensor, Tensor, Tensor, Tensor]
"""What the UNet is asked: noisy latents beside the photo's, timestep, token, and ids."""


def use_package(unet: Any, kind: CompileKey, wanted: AccelerationConfig) -> None:
    """Let `unet`, rewritten and placed, with a `Guidance` as its forward, answer for clips of
    `kind` by a package, if there is one or one is wanted. What goes wrong is a sentence in the log.
    """
    tools, folder = wanted.ahead, wanted.folder
    if tools is None or folder is None or wanted.compile == "off" or kind.plan.offload != "none":
        return
    package = folder / f"{kind.cache_key()}.package"
    try:
        if wanted.compile == "on" and not package.exists():
            _make(unet, kind, tools, package)
        if package.exists():
            _attach(unet, kind, tools, package)
    except Exception as error:  # noqa: BLE001 - a platform's tools raise anything
        log.warning("The UNet is not compiled ahead of time: %s", _told(error))


def drop_package(unet: Any) -> None:
    """Undo `use_package`: nothing holds on to the weights where they were then."""
    guidance = unet.forward
    if isinstance(guidance.forward, Packaged):
        guidance.forward = guidance.forward.usual


def question(unet: Any, kind: CompileKey, device: Any) -> Question:
    """One of the shapes and dtypes that are asked for clips of `kind`, of random numbers."""
    halves = 2 if kind.guided and not kind.plan.split_guidance else 1
    width, height = (side // SCALE for side in kind.size)
    draw = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(halves, *shape, generator=draw).to(device, unet.dtype)

    return (
        drawn(kind.num_frames, unet.config.in_channels, height, width),
        torch.ones((), device=device),
        drawn(1, unet.config.cross_attention_dim),
        drawn(TIME_IDS),
    )


def exported(unet: Any, kind: CompileKey) -> Any:
    """The graph of `unet` for clips of `kind`."""
    guidance = unet.forward
    unet.forward = guidance.forward
    try:
        with torch.no_grad():
            asked = question(unet, kind, unet.device)
            return torch.export.export(unet, (*asked, False), strict=False)
    finally:
        unet.forward = guidance


class Packaged:
    """The forward of a UNet that has a package for what is asked like `like`.

    `usual`: the UNet's own. A package that fails while `usual` does not is removed from disk, so
    that the next start can make another: it may be damaged, or of another GPU.
    """

    def __init__(
        self, usual: Callable[..., Any], package: Callable[..., Any], like: Question, folder: Path
    ) -> None:
        self.usual = usual
        self._package = package
        self._like = like
        self._folder = folder

    def __call__(self, *asked: Any) -> Any:
        if not self._fits(*asked) or not self._folder.exists():
            return self.usual(*asked)
        *given, as_dict = asked
        # Compiled code counts on tensors without gaps that begin at multiples of 16 bytes.
        given = [tensor.clone(memory_format=torch.contiguous_format) for tensor in given]
        try:
            return self._package(*given, as_dict)
        except Exception as error:  # noqa: BLE001 - the video goes on
            why = _told(error)  # not the error, which holds on to every tensor of the call
        found = self.usual(*asked)
        log.warning("A UNet compiled ahead of time failed and is removed: %s", why)
        shutil.rmtree(self._folder, ignore_errors=True)
        return found

    def _fits(self, *asked: Any) -> bool:
        *given, as_dict = asked
        return (
            not as_dict
            and len(given) == len(self._like)
            and all(
                isinstance(tensor, Tensor)
                and tensor.shape == like.shape
                and tensor.dtype == like.dtype
                for tensor, like in zip(given, self._like, strict=True)
            )
        )


def _make(unet: Any, kind: CompileKey, tools: AheadOfTime, package: Path) -> None:
    """Write the package, whole or not at all, and not if it computes something else."""

    def write() -> None:
        program = exported(unet, kind)
        with TemporaryDirectory(dir=package.parent) as folder:
            made = Path(folder) / package.name
            with unet.forward.attention():  # the choice that a graph leaves open
                tools.compile(made, program)
            _check(unet, kind, tools, made)
            made.rename(package)

    package.parent.mkdir(parents=True, exist_ok=True)
    log.warning("The UNet is compiled ahead of time, which takes minutes.")
    tools.run_on_gpu(write)


@torch.no_grad()
def _check(unet: Any, kind: CompileKey, tools: AheadOfTime, package: Path) -> None:
    asked = question(unet, kind, unet.device)
    (usual,), (found,) = (
        forward(*asked, False) for forward in (unet.forward.forward, _loaded(unet, tools, package))
    )
    off = float((found - usual).abs().max() / usual.abs().max())
    if not off <= ALIKE:  # so that NaN is noticed too
        raise ArithmeticError(f"compiled, it answers otherwise ({off:.1%} off)")


def _attach(unet: Any, kind: CompileKey, tools: AheadOfTime, package: Path) -> None:
    compiled, guidance = _loaded(unet, tools, package), unet.forward
    like = question(unet, kind, "meta")
    guidance.forward = Packaged(guidance.forward, compiled, like, package)


def _loaded(unet: Any, tools: AheadOfTime, package: Path) -> Callable[..., Any]:
    """The forward in `package`; that of `unet` stays."""
    own = unet.forward
    try:
        tools.load(unet, package)
        found: Callable[..., Any] = unet.forward
        return found
    finally:
        unet.forward = own


def _told(error: Exception) -> str:
    """Kind and first line of `error`."""
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])
