"""Loaded model: a checkpoint in memory that generates clips, with fallback when memory runs out."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from PIL import Image

from svd_core.checkpoints.defaults import clamp_fps, warnings_for, with_defaults
from svd_core.checkpoints.eta import ProgressEstimator, Timing, byte_reports, first_guess
from svd_core.checkpoints.hub import Snapshot, fetch, files_in, needed_files
from svd_core.checkpoints.memory_plan import (
    Device,
    MemoryPlan,
    Offload,
    OffloadSetting,
    opens_in_half,
)
from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.checkpoints.table import Checkpoint, with_folder_config
from svd_core.engine.devices import (
    available_memory,
    first_line,
    forget_peak,
    is_lost,
    is_out_of_memory,
    peak_memory,
)
from svd_core.engine.memory_fallback import MemoryFallback
from svd_core.engine.optimizations.kernels import choose_kernels
from svd_core.engine.optimizations.torch_compile import CompileCache, CompileKey
from svd_core.engine.pipeline_loader import model_sizes, open_folder, place, reset, unload
from svd_core.engine.sampling import sample_frames
from svd_core.engine.turbo_weights import TurboWeights
from svd_core.errors import DeviceLost, GenerationFailed
from svd_core.events import OnProgress
from svd_core.media.recipe import fingerprint
from svd_core.messages import Message, both
from svd_core.params import Speed, VideoParams
from svd_core.types import Frames, GenerationResult

log = logging.getLogger(__name__)


class LoadedModel:
    """A checkpoint ready to make clips, one at a time.

    `memory`: its plans; the pipeline is placed by the current one.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        pipeline: Any,
        memory: MemoryFallback,
        acceleration: AccelerationConfig,
    ) -> None:
        self.checkpoint = checkpoint
        self._pipeline = pipeline
        self._memory = memory
        # The plan of the weights, and whether their layers are compiled; None: placing them failed.
        self._placed: tuple[MemoryPlan, bool] | None = memory.current, False
        self._turbo = TurboWeights(acceleration)
        self._compiled = CompileCache(acceleration)
        folder = checkpoint.folder
        weights = fingerprint(folder) if folder else checkpoint.revision
        self._model = f"{checkpoint.name} {weights}"
        self._timings: dict[CompileKey, Timing] = {}  # of the last clip of that kind

    @classmethod
    def open(
        cls,
        requested: Checkpoint,
        device: Device,
        offload: OffloadSetting,
        acceleration: AccelerationConfig,
        on_progress: OnProgress,
        unload_current: Callable[[], Device],
    ) -> "LoadedModel":
        """Download `requested`, read it, and place it on `device`.

        `unload_current`: called once the files are on disk, so that no model is unloaded for one
        that is unavailable. `LoadedModel.checkpoint` has the settings of the files. Raises
        `ModelUnavailable`, `OutOfMemory`, `DeviceLost`.
        """
        on_bytes = byte_reports(on_progress)
        half = opens_in_half(device, requested)
        folder = requested.folder
        files = Snapshot(folder, "") if folder else fetch(requested, half, on_bytes)
        checkpoint = with_folder_config(replace(requested, revision=files.revision), files.folder)
        needed_files(files_in(files.folder), half, str(files.folder))
        device = unload_current()
        pipeline = open_folder(files.folder, half, on_bytes)
        memory = MemoryFallback(device, checkpoint, model_sizes(pipeline), offload)
        if not device.zero_gpu:  # which has no GPU until a video is made
            _choose_kernels(pipeline, memory.current, acceleration)
        chosen: MemoryPlan | None = memory.current
        while chosen is not None:
            try:
                place(pipeline, chosen)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    _raise_if_lost(error, chosen)
                    raise
                chosen = chosen.smaller()
            else:
                if chosen != memory.current:
                    memory.record_failure(chosen, available_memory(chosen))
                return cls(checkpoint, pipeline, memory, acceleration)
        unload(pipeline)
        raise memory.model_too_large()

    def close(self) -> None:
        """Free its memory, even if references to it remain. It makes no more clips."""
        self._turbo = TurboWeights(AccelerationConfig())
        unload(self._pipeline)

    @property
    def offload(self) -> Offload | None:
        """The current CPU offload, None without one."""
        offload = self._memory.current.offload
        return None if offload == "none" else offload

    @property
    def is_compiled(self) -> bool:
        """Whether the layers in place are compiled."""
        return self._placed is not None and self._placed[1]

    @property
    def notice(self) -> str | None:
        """A message for the operator on the device or the memory plan; None if all is well."""
        return self._memory.notice

    def generate(
        self, image: Image.Image, params: VideoParams, on_progress: OnProgress
    ) -> GenerationResult:
        """See `ModelHandle`."""
        first = chosen = self._memory.next_plan(available_memory(self._memory.current))
        filled = with_defaults(params, self.checkpoint, chosen.decode_chunk_size)
        notes = warnings_for(filled, self.checkpoint) + self._turbo.notes(filled.speed)
        note: Message | None = None
        free_bytes = None
        forget_peak(chosen)
        while (frames := self._try(chosen, image, filled, note, on_progress)) is None:
            if chosen == first:
                free_bytes = available_memory(chosen)
            smaller = chosen.smaller()
            if smaller is None:
                guided = (filled.max_guidance_scale or 1.0) > 1.0
                free_bytes = available_memory(chosen)
                num_frames = filled.num_frames or 1
                raise self._memory.request_too_large(image.size, num_frames, guided, free_bytes)
            chosen = smaller
            chunk = min(chosen.decode_chunk_size, filled.decode_chunk_size or 1)
            filled = replace(filled, decode_chunk_size=chunk)
            note = Message("memory_ran_out", plan=chosen.describe())
        if chosen == first:
            self._memory.record_success(chosen)
        elif (params.num_frames or 0) <= self.checkpoint.num_frames and (
            params.decode_chunk_size or 0
        ) <= first.decode_chunk_size:  # else the plan was not made for this request
            self._memory.record_failure(chosen, free_bytes)
        if not chosen.whole_clip and (filled.decode_chunk_size or 1) < len(frames):
            notes += (Message("chunked_decode"),)
        return GenerationResult(
            frames, filled, notes + ((note,) if note else ()), peak_memory(chosen)
        )

    def _try(
        self,
        chosen: MemoryPlan,
        image: Image.Image,
        params: VideoParams,
        note: Message | None,
        on_progress: OnProgress,
    ) -> Frames | None:
        """The frames, or None if memory ran out.

        The error must be gone before the next try, since it references every tensor of the call.
        """
        assert params.num_inference_steps is not None
        assert params.num_frames is not None
        on_cpu = chosen.device == "cpu"
        pixels = image.width * image.height
        guess = first_guess(self.checkpoint, pixels, params.num_frames) if on_cpu else None
        kind = CompileKey(
            model=self._model,
            plan=chosen,
            size=image.size,
            num_frames=params.num_frames,
            guided=(params.max_guidance_scale or 1.0) > 1.0,
            speed=params.speed,
        )
        estimator = ProgressEstimator(
            num_steps=params.num_inference_steps,
            num_frames=params.num_frames,
            on_cpu=on_cpu,
            expected=self._timings.get(kind) or guess,
        )
        try:
            compiled = self._compiled.is_wanted(kind)
            new = compiled and not self._compiled.is_cached(kind)
            shown = both(note, Message("compiling") if new else None)
            on_progress(replace(estimator.encoding(), note=shown))
            self._place(chosen, params.speed, compiled)
            fps = clamp_fps(params.fps)
            frames = sample_frames(
                self._pipeline, image, params, fps, estimator, on_progress, chosen.whole_clip
            )
            if compiled:
                self._compiled.mark_cached(kind)
            if estimator.timing is not None:
                self._timings[kind] = estimator.timing
            return frames
        except (RuntimeError, ValueError, MemoryError) as error:
            if is_out_of_memory(error):
                return None
            _raise_if_lost(error, chosen)
            raise GenerationFailed("model_failed", reason=first_line(error)) from error
        finally:
            try:
                reset(self._pipeline)
            except RuntimeError:  # it would hide the first error, which says more
                self._placed = None

    def _place(self, chosen: MemoryPlan, speed: Speed, compiled: bool) -> None:
        """Place the weights for `speed` by the plan `chosen`, unless they are in place."""
        if not self._turbo.is_active(speed):
            self._placed = None
            self._pipeline.remove_all_hooks()
            self._turbo.swap(self._pipeline.unet)
        if (chosen, compiled) != self._placed:
            self._placed = None
            place(self._pipeline, chosen, compiled)
            self._placed = chosen, compiled


def _choose_kernels(pipeline: Any, chosen: MemoryPlan, acceleration: AccelerationConfig) -> None:
    """Choose the kernels that are right and fastest on the plan's GPU."""
    if chosen.device == "cpu":
        return
    try:
        kernels = choose_kernels(chosen.target, chosen.dtype, acceleration.folder)
    except RuntimeError as error:
        _raise_if_lost(error, chosen)
        reason = first_line(error)
        log.warning("Kernels could not be probed, so the default ones are used: %s", reason)
    else:
        pipeline.kernels = kernels


def _raise_if_lost(error: Exception, chosen: MemoryPlan) -> None:
    if is_lost(chosen):
        raise DeviceLost("gpu_lost", reason=first_line(error)) from error
