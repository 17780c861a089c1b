"""A checkpoint in memory: how it gets there, and clips made with it, also when memory is short."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from PIL import Image

from svd_core.clip import Clip, Frames
from svd_core.diffusion import make_frames
from svd_core.download import Snapshot, fetch, files_in, needed_files
from svd_core.errors import GenerationFailed, OutOfMemory
from svd_core.events import OnProgress
from svd_core.fast.compiled import Compiled, Kind
from svd_core.fast.packaged import use_package
from svd_core.fingerprint import fingerprint
from svd_core.loading import (
    forget_peak,
    free,
    give_up,
    is_out_of_memory,
    open_folder,
    parts_of,
    peak_memory,
    place,
)
from svd_core.memory import Device, MemoryPlan, Offload, Setting, plan
from svd_core.models import Checkpoint, settled
from svd_core.pace import Pace, Timing, byte_reports, first_guess
from svd_core.params import Speed, VideoParams
from svd_core.resolved import filled, held_fps, held_notes
from svd_core.speed import SpeedUps
from svd_core.turbo import TurboWeights

COMPILING = "The UNet is compiled for this size first, which takes minutes."


class LoadedModel:
    """A checkpoint ready to make clips, one at a time."""

    def __init__(
        self, checkpoint: Checkpoint, pipeline: Any, chosen: MemoryPlan, speed_ups: SpeedUps
    ) -> None:
        self.checkpoint = checkpoint
        self._pipeline = pipeline
        self._plan = chosen
        self._placed: tuple[MemoryPlan, bool] | None = (chosen, False)  # None: placing it broke off
        self._turbo = TurboWeights(speed_ups.turbo)
        self._compiled = Compiled(speed_ups)
        folder = checkpoint.folder
        weights = fingerprint(folder) if folder else checkpoint.revision
        self._model = f"{checkpoint.name} {weights}"
        self._timings: dict[Kind, Timing] = {}  # of the last clip of that kind
        usual = filled(VideoParams(seed=0), checkpoint, chosen.decode_chunk_size)
        kind = Kind.of(self._model, chosen, checkpoint.sizes[0], usual)
        use_package(pipeline.unet, kind, speed_ups)

    @classmethod
    def open(
        cls,
        wanted: Checkpoint,
        device: Device,
        offload: Setting,
        speed_ups: SpeedUps,
        on_progress: OnProgress,
        make_room: Callable[[], Device],
    ) -> "LoadedModel":
        """`wanted` downloaded, read and placed on `device`.

        `make_room`: called once the files are there, so that nothing makes room for what cannot be
        had. Its `checkpoint` has the dials of the files. Raises `ModelUnavailable`, `OutOfMemory`.
        """
        on_bytes = byte_reports(on_progress)
        half = device.kind == "cuda" and not wanted.single_precision_unet
        folder = wanted.folder
        found = Snapshot(folder, "") if folder else fetch(wanted, half, on_bytes)
        checkpoint = settled(replace(wanted, revision=found.revision), found.folder)
        needed_files(files_in(found.folder), half, str(found.folder))
        device = make_room()
        pipeline = open_folder(found.folder, half, on_bytes)
        chosen: MemoryPlan | None = plan(device, checkpoint, parts_of(pipeline), offload)
        while chosen is not None:
            try:
                place(pipeline, chosen)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                chosen = chosen.smaller()
            else:
                return cls(checkpoint, pipeline, chosen, speed_ups)
        give_up(pipeline)
        raise OutOfMemory(f"{device.name} has too little free memory for {checkpoint.name}.")

    def close(self) -> None:
        """Give its memory back, whoever may still hold on to it. It makes no more clips."""
        self._turbo = TurboWeights(None)
        give_up(self._pipeline)

    @property
    def offload(self) -> Offload | None:
        """How weights wait beside the GPU, None if they do not."""
        return None if self._plan.offload == "none" else self._plan.offload

    def make_clip(self, image: Image.Image, params: VideoParams, on_progress: OnProgress) -> Clip:
        """See `Engine.generate`."""
        asked = filled(params, self.checkpoint, self._plan.decode_chunk_size)
        notes = held_notes(asked, self.checkpoint) + self._turbo.check(asked.speed)
        forget_peak()
        frames = self._try(self._plan, image, asked, None, on_progress)
        if frames is None:
            smaller = self._plan.smaller()
            if smaller is None:
                raise OutOfMemory(_too_small(asked, image))
            chunk = min(smaller.decode_chunk_size, asked.decode_chunk_size or 1)
            asked = replace(asked, decode_chunk_size=chunk)
            note = f"Memory ran out, so it was made again with {smaller.told()}."
            notes += (note,)
            frames = self._try(smaller, image, asked, note, on_progress)
            if frames is None:
                raise OutOfMemory(_too_small(asked, image))
            if self._ordinary(params):
                self._plan = smaller
        return Clip(frames, asked, notes, peak_memory())

    def _try(
        self,
        chosen: MemoryPlan,
        image: Image.Image,
        params: VideoParams,
        note: str | None,
        on_progress: OnProgress,
    ) -> Frames | None:
        """Frames, or None if memory ran out. (The error must be gone before the next try: it
        holds on to every tensor of the call.)"""
        assert params.num_inference_steps is not None
        assert params.num_frames is not None
        on_cpu = chosen.device == "cpu"
        pixels = image.width * image.height
        guess = first_guess(self.checkpoint, pixels, params.num_frames) if on_cpu else None
        kind = Kind.of(self._model, chosen, image.size, params)
        pace = Pace(
            num_steps=params.num_inference_steps,
            num_frames=params.num_frames,
            on_cpu=on_cpu,
            expected=self._timings.get(kind) or guess,
        )
        try:
            compiled = self._compiled.wanted(kind)
            new = compiled and not self._compiled.had(kind)
            notes = [*([note] if note else []), *([COMPILING] if new else [])]
            on_progress(replace(pace.encoding(), note=" ".join(notes) or None))
            self._settle(chosen, params.speed, compiled)
            fps = held_fps(params.fps)
            whole = chosen.whole_clip
            frames = make_frames(self._pipeline, image, params, fps, pace, on_progress, whole)
            if compiled:
                self._compiled.note(kind)
            if pace.timing is not None:
                self._timings[kind] = pace.timing
            return frames
        except (RuntimeError, ValueError, MemoryError) as error:
            if is_out_of_memory(error):
                return None
            raise GenerationFailed(f"The model failed: {_first_line(error)}") from error
        finally:
            free(self._pipeline)

    def _settle(self, chosen: MemoryPlan, speed: Speed, compiled: bool) -> None:
        """Bring the weights for `speed` to where they are wanted, unless they are there."""
        if not self._turbo.belong(speed):
            self._placed = None
            self._pipeline.remove_all_hooks()
            self._turbo.exchange(self._pipeline.unet)
        if (chosen, compiled) != self._placed:
            self._placed = None
            place(self._pipeline, chosen, compiled)
            self._placed = chosen, compiled

    def _ordinary(self, params: VideoParams) -> bool:
        """Whether a request asks for no more than the plan was made for."""
        return (params.num_frames or 0) <= self.checkpoint.num_frames and (
            params.decode_chunk_size or 0
        ) <= self._plan.decode_chunk_size


def _too_small(params: VideoParams, image: Image.Image) -> str:
    return (
        f"There is too little memory for {params.num_frames} frames of {image.width}x"
        f"{image.height}, also with the smaller plan. Ask for fewer frames, or close other "
        "programs that use it."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
