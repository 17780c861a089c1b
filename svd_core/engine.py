"""The engine: a framed photo in, frames out. `SvdEngine` runs Stable Video Diffusion."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from PIL import Image

from svd_core.clip import Clip
from svd_core.errors import InvalidImage, ModelUnavailable, OutOfMemory
from svd_core.events import OnProgress, Progress, Stage
from svd_core.memory import Device, Setting
from svd_core.models import DEMO, Checkpoint, find_checkpoint
from svd_core.params import VideoParams
from svd_core.speed import SpeedUps

if TYPE_CHECKING:
    from svd_core.loaded import LoadedModel

State = Literal["loading", "ready", "failed"]

POLL_S = 0.5
"""How often a call that waits for another one gives a sign of life."""


@dataclass(frozen=True, kw_only=True)
class EngineStatus:
    """What runs where, for people. While `loading`, the checkpoint is the one that is expected.

    `device`: in words, e.g. "CPU, 2 cores" or "NVIDIA L4, 24 GB, model offload"; empty until
    known. `notice`: a sentence to show while it holds, e.g. why svd-nano runs instead.
    """

    checkpoint: Checkpoint
    device: str
    state: State
    notice: str | None = None


class Engine(Protocol):
    """Turns framed photos into frames. Methods may be called from any thread."""

    def load(self, on_progress: OnProgress) -> Checkpoint:
        """Make ready what `generate` needs; returns at once after the first time.

        The checkpoint is the one that runs. Raises `ModelUnavailable`, `OutOfMemory`.
        """
        ...

    def generate(self, image: Image.Image, params: VideoParams, on_progress: OnProgress) -> Clip:
        """The clip of `image`, an RGB picture framed to one of the checkpoint's sizes.

        Whatever `on_progress` raises comes out, and the engine stays ready for the next call.
        Raises `GenerationFailed`, `OutOfMemory`.
        """
        ...

    @property
    def status(self) -> EngineStatus: ...


class SvdEngine:
    """Stable Video Diffusion on this machine, one video at a time.

    `model`: see `find_checkpoint`. `fall_back`: run svd-nano, and say so in `status.notice`, when
    the wanted checkpoint cannot be had; a folder given by path never falls back. Torch is
    imported by the first `load`. Raises `InvalidSettings` or `ModelBroken` for a wrong `model`.
    """

    def __init__(
        self,
        model: str = "auto",
        offload: Setting = "auto",
        *,
        fall_back: bool = True,
        speed_ups: SpeedUps | None = None,
    ) -> None:
        named = find_checkpoint(model, cuda=False)
        self._model = model
        self._offload = offload
        self._speed_ups = speed_ups or SpeedUps()
        self._fall_back = fall_back and (model == "auto" or named.folder is None)
        self._lock = threading.Lock()
        self._loaded: LoadedModel | None = None
        self._loading = Progress(stage=Stage.LOADING)
        self._status = EngineStatus(checkpoint=named, device="", state="loading")

    @property
    def status(self) -> EngineStatus:
        offload = "" if self._loaded is None else self._loaded.offload
        device = f"{self._status.device}, {offload} offload" if offload else self._status.device
        return replace(self._status, device=device)

    def load(self, on_progress: OnProgress) -> Checkpoint:
        """See `Engine.load`. A load that failed or was stopped is tried afresh by the next call."""
        if self._loaded is None:
            on_progress(self._loading)
            with self._turn(on_progress, lambda: self._loading):
                if self._loaded is None:
                    self._loaded = self._open(on_progress)
        return self._loaded.checkpoint

    def generate(self, image: Image.Image, params: VideoParams, on_progress: OnProgress) -> Clip:
        """See `Engine.generate`. The same model, image, parameters and machine: the same frames."""
        self.load(on_progress)
        if image.width % 8 or image.height % 8:
            raise InvalidImage(
                f"The picture must be framed to multiples of 8, not {image.width}x{image.height}."
            )
        with self._turn(on_progress, lambda: Progress(stage=Stage.ENCODING)):
            assert self._loaded is not None
            return self._loaded.make_clip(image, params, on_progress)

    @contextmanager
    def _turn(self, on_progress: OnProgress, sign: Callable[[], Progress]) -> Iterator[None]:
        """Hold the engine; while another call has it, report `sign()`, which may raise."""
        while not self._lock.acquire(timeout=POLL_S):
            on_progress(sign())
        try:
            yield
        finally:
            self._lock.release()

    def _open(self, on_progress: OnProgress) -> "LoadedModel":
        # Huge pages halve the processor time of decoding on a CPU. Torch reads this once, early.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
        from svd_core.loading import find_device  # brings torch, which takes seconds

        device = find_device()
        wanted = find_checkpoint(self._model, cuda=device.kind == "cuda")
        try:
            return self._bring(wanted, device, on_progress, None)
        except ModelUnavailable as error:
            if not self._fall_back or wanted.name == DEMO:
                raise
            notice = f"{error.message} Until then {DEMO}, a small demonstration model, runs here."
        return self._bring(find_checkpoint(DEMO, cuda=False), device, on_progress, notice)

    def _bring(
        self, wanted: Checkpoint, device: Device, on_progress: OnProgress, notice: str | None
    ) -> "LoadedModel":
        from svd_core.loaded import LoadedModel

        def report(progress: Progress) -> None:
            self._loading = progress
            on_progress(progress)

        self._tell(wanted, device.name, "loading", notice)
        try:
            loaded = LoadedModel.open(wanted, device, self._offload, self._speed_ups, report)
        except (ModelUnavailable, OutOfMemory) as error:
            self._tell(wanted, device.name, "failed", error.message)
            raise
        self._tell(loaded.checkpoint, device.name, "ready", notice)
        return loaded

    def _tell(self, checkpoint: Checkpoint, device: str, state: State, notice: str | None) -> None:
        self._status = EngineStatus(
            checkpoint=checkpoint, device=device, state=state, notice=notice
        )
