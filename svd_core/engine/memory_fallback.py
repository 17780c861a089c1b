"""Memory fallback: the plan of the next clip after memory ran out, with backoff before growing.

A clip is tried with smaller and smaller plans until one works, and the next clip begins with that
plan. A larger one is tried again at once if more memory is free than when it ran out, and otherwise
after 0, 1, 3, 7, ... clips, so that a wrong estimate costs little. Without a GPU the free memory is
unknown, so there a plan stays small.
"""

from dataclasses import replace
from typing import get_args

from svd_core.checkpoints.memory_plan import (
    USABLE_SHARE,
    Device,
    MemoryPlan,
    ModelSizes,
    Offload,
    OffloadSetting,
    bytes_per_number,
    estimate_memory,
    plan_memory,
)
from svd_core.checkpoints.table import Checkpoint, Size
from svd_core.errors import OutOfMemory
from svd_core.messages import Message

MAX_BACKOFF_CLIPS = 63
"""Clips after which a plan that ran out of memory is tried again at the latest."""


class MemoryFallback:
    """The plan that the next clip begins with, of `checkpoint` on `device`.

    `current`: that plan. Not thread-safe; does not use torch.
    """

    def __init__(
        self,
        device: Device,
        checkpoint: Checkpoint,
        parts: ModelSizes,
        setting: OffloadSetting = "auto",
    ) -> None:
        self._device = device
        self._checkpoint = checkpoint
        self._parts = parts
        self._setting = setting
        self._preferred = self.current = plan_memory(device, checkpoint, parts, setting)
        self._free_at_failure: int | None = None  # bytes that were free when memory last ran out
        self._backoff = self._clips = 0

    @property
    def notice(self) -> str | None:
        """A message on why the device or the offload is not as configured; None if it is."""
        if self._device.notice is not None:
            return self._device.notice
        used, wanted = self.current.offload, self._setting
        if self._device.kind == "cpu" or self._device.zero_gpu or wanted in ("auto", used):
            return None
        free = _gigabytes(self._free_at_failure or self._device.free_bytes)
        return Message("offload_changed", wanted=wanted, free=free, used=used)

    def next_plan(self, free_bytes: int | None) -> MemoryPlan:
        """The plan for the next clip. `free_bytes`: those it may use; None if unknown."""
        if self.current == self._preferred or free_bytes is None:
            return self.current
        least = self._free_at_failure
        more = least is not None and free_bytes * USABLE_SHARE > least
        self._clips -= 1
        if self._clips >= 0 and not more:
            return self.current
        self._device = replace(self._device, free_bytes=free_bytes)
        plan = plan_memory(self._device, self._checkpoint, self._parts, self._setting)
        if _rank(plan) > _rank(self.current):
            self.current = plan
        return self.current

    def record_failure(self, works: MemoryPlan, free_bytes: int | None) -> None:
        """Memory ran out with `current`, and only `works` made the clip."""
        self.current, self._free_at_failure = works, free_bytes
        self._clips = self._backoff
        self._backoff = min(2 * self._backoff + 1, MAX_BACKOFF_CLIPS)

    def record_success(self, chosen: MemoryPlan) -> None:
        """`chosen` made a clip without running out of memory."""
        if chosen == self._preferred:
            self._backoff = self._clips = 0

    def model_too_large(self) -> OutOfMemory:
        """The error for a model whose weights no plan could place."""
        model, device = self._checkpoint.name, self._device.name
        if self._device.kind == "cpu":
            return OutOfMemory("memory_too_small_to_load", model=model)
        needed, free = self._needed(self._checkpoint), _gigabytes(self._device.free_bytes)
        return OutOfMemory(
            "gpu_too_small_for_model", model=model, needed=needed, free=free, device=device
        )

    def request_too_large(
        self, size: Size, num_frames: int, guided: bool, free_bytes: int | None
    ) -> OutOfMemory:
        """The error for a request that even the smallest plan has no memory for."""
        video = {"frames": num_frames, "width": size[0], "height": size[1]}
        if free_bytes is None:
            return OutOfMemory("memory_too_small", **video)
        request = replace(
            self._checkpoint,
            sizes=(size,),
            num_frames=num_frames,
            max_guidance_scale=3.0 if guided else 1.0,
        )
        free = _gigabytes(free_bytes)
        return OutOfMemory("gpu_too_small", needed=self._needed(request), free=free, **video)

    def _needed(self, checkpoint: Checkpoint) -> str:
        """Gigabytes that a GPU needs to have for a video of `checkpoint` with the smallest plan."""
        number_bytes = bytes_per_number(self._device, checkpoint)
        needs = estimate_memory(checkpoint, self._parts, number_bytes)
        return _gigabytes(needs.peak(smallest_plan(self.current)) / USABLE_SHARE)


def smallest_plan(chosen: MemoryPlan) -> MemoryPlan:
    """The last plan that is tried when memory keeps running out."""
    while (smaller := chosen.smaller()) is not None:
        chosen = smaller
    return chosen


def _rank(chosen: MemoryPlan) -> tuple[int, bool, bool, int]:
    """Orders plans from the smallest to the fastest. (Their peaks may be the same.)"""
    offload = get_args(Offload).index(chosen.offload)
    return -offload, chosen.whole_clip, not chosen.split_guidance, chosen.decode_chunk_size


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f}"
