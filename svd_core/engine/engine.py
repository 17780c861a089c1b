"""The engine: a framed photo in, frames out. `SvdEngine` runs Stable Video Diffusion."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from PIL import Image

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.checkpoints.memory_plan import Device, OffloadSetting
from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.checkpoints.table import DEMO_MODEL, Checkpoint, find_checkpoint
from svd_core.errors import DeviceUnavailable, InvalidImage, ModelUnavailable, OutOfMemory
from svd_core.events import OnProgress, Progress, Stage
from svd_core.params import VideoParams
from svd_core.types import GenerationResult

if TYPE_CHECKING:
    from svd_core.engine.loaded_model import LoadedModel

log = logging.getLogger(__name__)

State = Literal["loading", "ready", "failed"]

POLL_S = 0.5
"""Seconds between two progress reports of a call that waits for another one."""


@dataclass(frozen=True, kw_only=True)
class EngineStatus:
    """What runs where, for people. While `loading`, the checkpoint is the one that is expected.
    `ready` is also one that had to make room for another which then could not be loaded.

    `device`: in words, e.g. "CPU, 2 cores" or "NVIDIA L4, 24 GB, model offload"; empty until known.
    `catalog`: what requests may ask for; of those on the hub more is known once they have been
    loaded. `notice`: a sentence to show while it holds, e.g. why svd-nano runs instead. `workers`:
    how many GPU workers a cluster has; None where this process has the engine."""

    checkpoint: Checkpoint
    device: str
    state: State
    catalog: ModelCatalog
    notice: str | None = None
    workers: int | None = None

    @property
    def waits_for_machine(self) -> bool:
        """Whether a cluster has no GPU worker, and none on its way."""
        return self.workers == 0


class Engine(Protocol):
    """Turns framed photos into frames. Methods may be called from any thread."""

    def load(self, on_progress: OnProgress, model: str | None = None) -> Checkpoint:
        """Make ready what `generate` needs for `VideoParams.model`; returns at once where it is.

        The checkpoint is the one that runs. Raises `InvalidRequest` for a model that is not on
        offer, `ModelUnavailable`, `OutOfMemory`, `DeviceUnavailable`.
        """
        ...

    def generate(
        self, image: Image.Image, params: VideoParams, on_progress: OnProgress
    ) -> GenerationResult:
        """The clip of `image`, an RGB picture framed to one of the checkpoint's sizes.

        Whatever `on_progress` raises comes out, and the engine stays ready for the next call.
        Raises what `load` raises, and `GenerationFailed`. After `DeviceLost` no call of this
        process can use the device any more.
        """
        ...

    @property
    def status(self) -> EngineStatus: ...


class SvdEngine:
    """Stable Video Diffusion on this machine: one video at a time, one checkpoint in memory.

    `model`: see `ModelCatalog.of`. `fall_back`: run svd-nano, and say so in `status.notice`, when
    the usual checkpoint cannot be had. A folder given by path never falls back, nor does what a
    request asks for by name. Torch is imported by the first `load`. Raises `InvalidSettings` or
    `ModelBroken` for a wrong `model`."""

    def __init__(
        self,
        model: str = "auto",
        offload: OffloadSetting = "auto",
        *,
        fallback: bool = True,
        acceleration: AccelerationConfig | None = None,
    ) -> None:
        catalog = ModelCatalog.from_setting(model, cuda=False)
        self._model = model
        self._offload = offload
        self._acceleration = acceleration or AccelerationConfig()
        self._fallback = fallback and (model == "auto" or catalog.default.folder is None)
        self._lock = threading.Lock()
        self._loaded: LoadedModel | None = None
        self._loading = Progress(stage=Stage.LOADING)
        self._status = EngineStatus(
            checkpoint=catalog.default, device="", state="loading", catalog=catalog
        )

    @property
    def status(self) -> EngineStatus:
        loaded = self._loaded
        offload = "" if loaded is None else loaded.offload
        device = f"{self._status.device}, {offload} offload" if offload else self._status.device
        told = (self._status.notice, None if loaded is None else loaded.notice)
        notice = " ".join(filter(None, told)) or None
        return replace(self._status, device=device, notice=notice)

    def load(self, on_progress: OnProgress, model: str | None = None) -> Checkpoint:
        """See `Engine.load`. A load that failed or was stopped is tried afresh by the next call."""
        found = self._find_loaded(model)
        if found is None:
            on_progress(self._loading)
            with self._exclusive(on_progress, lambda: self._loading):
                found = self._ensure_loaded(model, on_progress)
        return found.checkpoint

    def generate(
        self, image: Image.Image, params: VideoParams, on_progress: OnProgress
    ) -> GenerationResult:
        """See `Engine.generate`. The same model, image, parameters and machine: the same frames."""
        self.load(on_progress, params.model)
        if image.width % 8 or image.height % 8:
            raise InvalidImage(
                f"The picture must be framed to multiples of 8, not {image.width}x{image.height}."
            )
        with self._exclusive(on_progress, lambda: Progress(stage=Stage.ENCODING)):
            wanted = self._ensure_loaded(
                params.model, on_progress
            )  # another call may have had a turn
            return wanted.generate(image, params, on_progress)

    @contextmanager
    def _exclusive(
        self, on_progress: OnProgress, waiting_progress: Callable[[], Progress]
    ) -> Iterator[None]:
        """Hold the engine; while another call has it, report `sign()`, which may raise."""
        while not self._lock.acquire(timeout=POLL_S):
            on_progress(waiting_progress())
        try:
            yield
        finally:
            self._lock.release()

    def _find_loaded(self, model: str | None) -> "LoadedModel | None":
        """The loaded model if it is the requested one, else None. Raises `InvalidRequest`."""
        found = self._loaded
        if found is None or found.checkpoint.source != self._status.catalog.get(model).source:
            return None
        return found

    def _ensure_loaded(self, model: str | None, on_progress: OnProgress) -> "LoadedModel":
        """The requested model, loaded if it was not."""
        if (found := self._find_loaded(model)) is not None:
            return found
        # Huge pages halve the processor time of decoding on a CPU. Torch reads this once, early.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
        from svd_core.engine.pipeline_loader import find_device  # brings torch, which takes seconds

        try:
            device = find_device()
        except DeviceUnavailable as error:
            if self._loaded is None:
                self._set_status(state="failed", notice=error.message)
            raise
        if not self._status.device:  # from now on it is known what `auto` stands for
            self._set_status(
                catalog=ModelCatalog.from_setting(self._model, cuda=device.kind == "cuda")
            )
        wanted = self._status.catalog.get(model)
        try:
            return self._load(wanted, device, on_progress)
        except ModelUnavailable as error:
            if not self._fallback or model is not None or wanted.name == DEMO_MODEL:
                raise
            why = (
                f"{error.message} Until then {DEMO_MODEL}, a small demonstration model, runs here."
            )
        return self._load(find_checkpoint(DEMO_MODEL, cuda=False), device, on_progress, why)

    def _load(
        self,
        checkpoint: Checkpoint,
        device: Device,
        on_progress: OnProgress,
        reason: str | None = None,
    ) -> "LoadedModel":
        """`why`: it stands in for the usual one, for this reason."""
        from svd_core.engine.loaded_model import LoadedModel

        def report(progress: Progress) -> None:
            self._loading = progress
            on_progress(progress)

        before = self._status
        notice = before.notice if before.catalog.stand_in else reason
        self._set_status(checkpoint=checkpoint, device=device.name, state="loading", notice=notice)
        try:
            self._loaded = found = LoadedModel.open(
                checkpoint, device, self._offload, self._acceleration, report, self._unload
            )
        except BaseException as error:  # a stop and Ctrl-C too: no status may stay at loading
            if before.state == "ready":  # the next call has what it asks for loaded again
                self._status = before
            elif isinstance(error, ModelUnavailable | OutOfMemory | DeviceUnavailable):
                self._set_status(state="failed", notice=error.message)
            raise
        finally:
            self._loading = Progress(stage=Stage.LOADING)
        catalog = before.catalog.with_loaded(found.checkpoint)
        if reason is not None:
            catalog = replace(catalog, stand_in=found.checkpoint)
        notice = notice if catalog.stand_in else None
        self._set_status(checkpoint=found.checkpoint, state="ready", catalog=catalog, notice=notice)
        if found.notice is not None:
            log.warning("%s", found.notice)
        return found

    def _unload(self) -> Device:
        """Unload the current model; return the device with its free memory."""
        from svd_core.engine.pipeline_loader import find_device

        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None
        return find_device()

    def _set_status(self, **changes: Any) -> None:
        self._status = replace(self._status, **changes)
