"""Context of a part: device, sizes, time limit, and `case`, which isolates failures.

Models are SVD-XT or its tiny version, with random weights made on the device. Default
initialization keeps numbers near 1: times are real, pictures are not.
"""

import gc
import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from svd_core.benchmarks.gpu.results import Recorder
from svd_core.benchmarks.gpu.timing import Timer
from svd_core.benchmarks.random_models import TINY, open_stock, random_part
from svd_core.checkpoints.table import CHECKPOINTS, Checkpoint, find_checkpoint
from svd_core.engine.pipeline_loader import is_out_of_memory
from svd_core.errors import OutOfMemory

LOST_CONTEXT_MESSAGES = (
    "illegal memory access",
    "device-side assert",
    "unspecified launch",
    "misaligned address",
)
"""Texts of CUDA errors after which nothing works in the same process."""

TRACEBACK_LINES = 8

Figures = Mapping[str, object]


class LostContext(Exception):
    """The CUDA context of this process is lost; its cases cannot go on."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Context of a part. `tiny`: small shapes. `folder`: for results. `scratch`: temporary files.

    `deadline`: on `time.monotonic`; no case begins after it.
    """

    recorder: Recorder
    device: Literal["cpu", "cuda"]
    tiny: bool
    folder: Path
    scratch: Path
    deadline: float

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the models."""
        return torch.float16 if self.cuda else torch.float32

    @property
    def timer(self) -> Timer:
        return Timer(self.device)

    def remaining_s(self) -> float:
        return self.deadline - time.monotonic()

    def randn(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=self.device, dtype=self.dtype)

    def case(self, name: str, measure: Callable[[], Figures], least_s: float = 0.0) -> bool:
        """Record what `measure` returns, or its error. Returns whether there was none.

        `least_s`: it is skipped if fewer seconds remain. Raises `LostContext`.
        """
        if self.remaining_s() < max(0.0, least_s):
            self.recorder.write(name, skipped=f"{max(0.0, self.remaining_s()):.0f} s are left")
            return False
        try:
            row, failed = measure(), False
        except Exception as error:  # noqa: BLE001  # kernels and compilers raise anything
            row, failed = error_row(error), True
        self.recorder.write(name, **row)
        if failed:  # the error is gone by now, and the tensors that it referenced
            gc.collect()
            if row["kind"] == "lost context":
                raise LostContext
        self.timer.release()
        return not failed


def error_row(error: Exception) -> dict[str, object]:
    """`failed`: class and message. `kind`: of error. `where`: last lines of the traceback."""
    text = str(error).strip() or type(error).__name__
    chain = " ".join(str(each) for each in _causes(error))
    lines = "".join(traceback.format_exception(error)).splitlines()
    kind = "error"
    if any(word in chain for word in LOST_CONTEXT_MESSAGES):
        kind = "lost context"
    elif isinstance(error, OutOfMemory) or is_out_of_memory(error):
        kind = "out of memory"
    return {
        "failed": f"{type(error).__name__}: {text}"[:400],
        "kind": kind,
        "where": [line.strip()[:200] for line in lines[-TRACEBACK_LINES:]],
    }


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and its causes: sentences for users hide the messages of CUDA."""
    while error is not None:
        yield error
        error = error.__cause__


SHAPES = {False: (25, 72, 128), True: (3, 8, 16)}
"""Frames, height and width of the latents, by `tiny`."""

TINY_SETTINGS = {"sizes": [(128, 64), (64, 128)], "num_frames": 3, "num_inference_steps": 2}
"""Content of svd.json of the tiny checkpoint."""

TOKEN = {False: 1024, True: 64}
"""Channels of the image embedding."""


def model(context: Context, part: str, dtype: torch.dtype | None = None) -> Any:
    """`unet`, `vae` or `image_encoder`, with the same random weights on each call."""
    return random_part(part, context.tiny, context.device, dtype or context.dtype)


def unet_inputs(context: Context) -> tuple[Tensor, ...]:
    """Inputs of a guided step: latents, timestep, image embedding, added time ids."""
    torch.manual_seed(7)
    frames, height, width = SHAPES[context.tiny]
    noisy, timestep = context.randn(2, frames, 8, height, width), torch.tensor(0.5)
    ids = torch.tensor([[6.0, 127.0, 0.02]] * 2, dtype=context.dtype)
    embedding = context.randn(2, 1, TOKEN[context.tiny])
    return noisy, timestep.to(context.device), embedding, ids.to(context.device)


def latents(context: Context) -> Tensor:
    """Inputs of the decoder: (frames, 4, height, width)."""
    frames, height, width = SHAPES[context.tiny]
    torch.manual_seed(5)
    return context.randn(frames, 4, height, width)


def checkpoint(context: Context, tiny: bool, single_precision: bool = False) -> Checkpoint:
    """Checkpoint folder with random weights in the scratch folder, written by the first call.

    `single_precision`: with weights in float32 as well, which a CPU reads.
    """
    folder = context.scratch / ("tiny" if tiny else "svd-xt")
    written = folder / "written"
    if not written.exists():
        _write(folder, context, tiny, single_precision or not context.cuda)
        written.touch()
    return find_checkpoint(str(folder), context.cuda)


def _write(folder: Path, context: Context, tiny: bool, single_precision: bool) -> None:
    description = TINY if tiny else CHECKPOINTS["svd-xt"]
    pipeline = open_stock(description, not tiny, "cpu" if single_precision else context.device)
    if single_precision:
        pipeline.save_pretrained(folder)
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder, variant="fp16", max_shard_size="20GB")
    about = TINY_SETTINGS if tiny else {name: getattr(description, name) for name in TINY_SETTINGS}
    (folder / "svd.json").write_text(json.dumps(about), encoding="utf-8")


def photo(checkpoint: Checkpoint, portrait: bool = False) -> Image.Image:
    """Synthetic photo of the checkpoint's first size, or of its second."""
    size = checkpoint.sizes[int(portrait)]
    return Image.effect_mandelbrot(size, (-2, -1, 1, 1), 50).convert("RGB")
