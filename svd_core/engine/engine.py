"""Inference engine: a framed photo in, frames out. `SvdEngine` runs Stable Video Diffusion."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

from PIL import Image

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.checkpoints.memory_plan import Device, OffloadSetting
from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.checkpoints.table import DEMO_MODEL, Checkpoint, find_checkpoint
from svd_core.errors import DeviceUnavailable, InvalidImage, ModelUnavailable, OutOfMemory
from svd_core.events import OnProgress, Progress, Stage
from svd_core.messages import Message, both
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
    """State of the engine, for people.

    `checkpoint`: the expected one while `loading`. It stays `ready` when it was unloaded for
    another that then failed to load; the next request loads it again.
    `device`: in words, e.g. "CPU, 2 cores" or "NVIDIA L4, 24 GB, model offload"; empty until known.
    `catalog`: the checkpoints that requests may name. Those of the hub are complete once loaded.
    `notice`: a message to show while it holds, e.g. why svd-nano runs instead.
    `workers`: number of GPU workers of a cluster; None where this process has the engine.
    """

    checkpoint: Checkpoint
    device: str
    state: State
    catalog: ModelCatalog
    notice: str | None = None
    workers: int | None = None

    @property
    def waits_for_machine(self) -> bool:
        """Whether a cluster has no GPU worker, not even one that is starting."""
        return self.workers == 0


@dataclass(frozen=True)
class ModelHandle:
    """A model that an engine has loaded.

    `generate`: makes a clip from an RGB picture that is framed to one of the checkpoint's sizes. If
    the engine has loaded another model since, it loads this one again. `on_progress` may raise to
    stop; the engine stays ready for the next call. Raises what `Engine.load` raises, and
    `GenerationFailed`. After `DeviceLost` this process cannot use the device again.
    """

    checkpoint: Checkpoint
    generate: Callable[[Image.Image, VideoParams, OnProgress], GenerationResult]


class Engine(Protocol):
    """Turns framed photos into frames. Methods may be called from any thread."""

    def load(self, on_progress: OnProgress, model: str | None = None) -> ModelHandle:
        """Load `model`, as `VideoParams.model` names it; returns at once if it is loaded.

        Raises `InvalidRequest` for a model that is not in the catalog, `ModelUnavailable`,
        `OutOfMemory`, `DeviceUnavailable`.
        """
        ...

    @property
    def status(self) -> EngineStatus:
        """The current state, for people."""
        ...


class SvdEngine:
    """Stable Video Diffusion on this machine: one video at a time, one checkpoint in memory.

    `model`: see `ModelCatalog.from_setting`. `fallback`: run svd-nano, and say so in
    `status.notice`, when the default checkpoint is unavailable. A folder given by path never falls
    back, nor does a model that a request names. Torch is imported by the first `load`. Raises
    `InvalidSettings` or `ModelBroken` for a wrong `model`.
    """

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
        device = self._status.device
        if loaded is not None and loaded.offload:
            device = Message("device_offload", device=device, way=loaded.offload)
        if loaded is not None and loaded.is_compiled:
            device = Message("device_compiled", device=device)
        notice = both(self._status.notice, None if loaded is None else loaded.notice)
        return replace(self._status, device=device, notice=notice)

    def load(self, on_progress: OnProgress, model: str | None = None) -> ModelHandle:
        """See `Engine.load`. After a load that failed or was stopped, the next call tries again."""
        loaded = self._find_loaded(model)
        if loaded is None:
            on_progress(self._loading)
            with self._exclusive(on_progress, lambda: self._loading):
                loaded = self._ensure_loaded(model, on_progress)
        return ModelHandle(loaded.checkpoint, partial(self._generate, model))

    def generate(
        self, image: Image.Image, params: VideoParams, on_progress: OnProgress
    ) -> GenerationResult:
        """Load the model that `params` names, and make a clip with it."""
        return self.load(on_progress, params.model).generate(image, params, on_progress)

    def _generate(
        self, model: str | None, image: Image.Image, params: VideoParams, on_progress: OnProgress
    ) -> GenerationResult:
        """See `ModelHandle`. Same model, image, parameters and machine give the same frames."""
        if image.width % 8 or image.height % 8:
            raise InvalidImage("image_not_framed", width=image.width, height=image.height)
        with self._exclusive(on_progress, lambda: Progress(stage=Stage.ENCODING)):
            # Again, since another call may have loaded its model in between.
            loaded = self._ensure_loaded(model, on_progress)
            return loaded.generate(image, params, on_progress)

    @contextmanager
    def _exclusive(
        self, on_progress: OnProgress, waiting_progress: Callable[[], Progress]
    ) -> Iterator[None]:
        """Hold the engine until the context ends.

        While another call has it, this reports `waiting_progress()`; `on_progress` may raise.
        """
        while not self._lock.acquire(timeout=POLL_S):
            on_progress(waiting_progress())
        try:
            yield
        finally:
            self._lock.release()

    def _find_loaded(self, model: str | None) -> "LoadedModel | None":
        """The loaded model if it is the requested one, else None. Raises `InvalidRequest`."""
        loaded = self._loaded
        if loaded is None or loaded.checkpoint.source != self._status.catalog.get(model).source:
            return None
        return loaded

    def _ensure_loaded(self, model: str | None, on_progress: OnProgress) -> "LoadedModel":
        """The requested model, loaded if it was not."""
        if (loaded := self._find_loaded(model)) is not None:
            return loaded
        # Huge pages halve the processor time of decoding on a CPU. Torch reads this once.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
        from svd_core.engine.pipeline_loader import find_device  # takes seconds: imports torch

        try:
            device = find_device()
        except DeviceUnavailable as error:
            if self._loaded is None:
                self._set_status(state="failed", notice=error.message)
            raise
        if not self._status.device:  # now that the device is known, so is the meaning of `auto`
            self._set_status(
                catalog=ModelCatalog.from_setting(self._model, cuda=device.kind == "cuda")
            )
        checkpoint = self._status.catalog.get(model)
        try:
            return self._load(checkpoint, device, on_progress)
        except ModelUnavailable as error:
            if not self._fallback or model is not None or checkpoint.name == DEMO_MODEL:
                raise
            reason = Message("demo_instead", reason=error.message, model=DEMO_MODEL)
        return self._load(find_checkpoint(DEMO_MODEL, cuda=False), device, on_progress, reason)

    def _load(
        self,
        checkpoint: Checkpoint,
        device: Device,
        on_progress: OnProgress,
        reason: str | None = None,
    ) -> "LoadedModel":
        """Load `checkpoint`. `reason`: a message on why it stands in for the default one."""
        from svd_core.engine.loaded_model import LoadedModel

        def report(progress: Progress) -> None:
            self._loading = progress
            on_progress(progress)

        before = self._status
        notice = before.notice if before.catalog.stand_in else reason
        self._set_status(checkpoint=checkpoint, device=device.name, state="loading", notice=notice)
        try:
            self._loaded = loaded = LoadedModel.open(
                checkpoint, device, self._offload, self._acceleration, report, self._unload
            )
        except BaseException as error:  # a stop and Ctrl-C too: no status may stay at loading
            if before.state == "ready":  # the next call loads its model again
                self._status = before
            elif isinstance(error, ModelUnavailable | OutOfMemory | DeviceUnavailable):
                self._set_status(state="failed", notice=error.message)
            raise
        finally:
            self._loading = Progress(stage=Stage.LOADING)
        catalog = before.catalog.with_loaded(loaded.checkpoint)
        if reason is not None:
            catalog = replace(catalog, stand_in=loaded.checkpoint)
        notice = notice if catalog.stand_in else None
        checkpoint = loaded.checkpoint
        self._set_status(checkpoint=checkpoint, state="ready", catalog=catalog, notice=notice)
        if loaded.notice is not None:
            log.warning("%s", loaded.notice)
        return loaded

    def _unload(self) -> Device:
        """Unload the current model. Returns the device with the memory that is free then."""
        from svd_core.engine.pipeline_loader import find_device

        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None
        return find_device()

    def _set_status(self, **changes: Any) -> None:
        self._status = replace(self._status, **changes)
