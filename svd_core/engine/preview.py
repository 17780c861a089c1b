"""Latent preview: a small animated WebP of a video while it is denoised.

On a GPU nothing waits for a preview. Latents are copied while it works, another thread makes the
picture, and a later progress report carries it.
"""

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

PREVIEWS_PER_VIDEO = 8
"""Most previews of a video, besides those of the first and the last step."""

POLL_S = 0.002
"""Seconds between two looks at a copy. Waiting inside of CUDA might block other threads."""

MAX_BYTES = 150_000
"""Most bytes of a preview: 200 kB on their way to a page, which takes them as base64."""

SIZE_STEPS = ((256, 75), (256, 40), (128, 40), (128, 5))
"""(pixels of the longer side, WebP's quality), tried until a preview is small enough. The first
usually gives 70 kB. Latents have half its side, but are easier to read when enlarged smoothly."""

RIDGE, TINY = 1e-3, 1e-6
"""Weight of the ridge penalty, relative to the latents' variance and absolute: a photo of one
colour says nothing about the others."""


T = TypeVar("T")


class LatentPreview:
    """Previews of one video, by a linear map from latents to colours.

    The decoder is close to such a map for a whole cell. It is fitted to the photo and its latents,
    so it suits any checkpoint and the colours of this video. `rate`: frames per second. At the end
    of the context the thread ends, and unfinished previews are dropped.
    """

    def __init__(self, photo: Image.Image, num_steps: int, rate: int, scaling: float) -> None:
        self._photo = photo
        self._num_steps = num_steps
        self._rate = rate
        self._scaling = scaling
        self._factors: NDArray[np.float32] | None = None
        self._middle: tuple[NDArray[np.float32], NDArray[np.float32]]
        self._predicted: torch.Tensor | None = None
        self._closed = threading.Event()
        self._thread: ThreadPoolExecutor | None = None
        self._fitting: Future[None] | None = None
        self._drawing: list[Future[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def record(self, scheduler: Any) -> Iterator[None]:
        """Record `pred_original_sample` of each step of `scheduler`, until the context ends.

        The predicted clean latents show shapes many steps before the latents themselves, which
        are noise until late.
        """
        step = scheduler.step

        def recorded_step(*args: Any, **kwargs: Any) -> Any:
            output = step(*args, **kwargs)
            self._predicted = output.pred_original_sample
            return output

        scheduler.step = recorded_step
        try:
            yield
        finally:
            del scheduler.step  # which restores the method of its class

    def fit(self, sample: torch.Tensor) -> None:
        """Fit the map to the photo.

        `sample`: input of the UNet, (batch, frames, 2 * channels, height, width). The photo's
        latents are in the second half of the channels, with guidance in the last of the batch.
        """
        channels = sample.shape[2] // 2
        self._fitting = self._run(HostCopy(sample[-1, :1, channels:]), self._fit)

    def _fit(self, photo_latents: torch.Tensor) -> None:
        latents = _to_cells(photo_latents)
        channels, height, width = photo_latents.shape[1:]
        small = self._photo.resize((width, height), Image.Resampling.BOX)
        colours = np.asarray(small, np.float32).reshape(-1, 3)
        self._middle = latents.mean(axis=0), colours.mean(axis=0)
        latents, colours = latents - self._middle[0], colours - self._middle[1]
        square = latents.T @ latents
        square += (RIDGE * np.diag(square).mean() + TINY) * np.eye(channels, dtype=np.float32)
        self._factors = np.linalg.solve(square, latents.T @ colours)

    def preview(self, step: int) -> bytes | None:
        """The newest preview after `step` steps, as an animated WebP; None if none is new.

        Without a GPU it is that of the step, if one is due.
        """
        every = -(-self._num_steps // PREVIEWS_PER_VIDEO)
        due = step in (1, self._num_steps) or step % every == 0
        if due and self._fitting is not None and self._predicted is not None:
            self._drawing.append(self._run(HostCopy(self._predicted[0]), self._draw))
        return self.newest()

    def newest(self) -> bytes | None:
        """The newest preview that is finished and was not returned before."""
        done = [future for future in self._drawing if future.done()]
        self._drawing = [future for future in self._drawing if future not in done]
        return done[-1].result() if done else None

    def _draw(self, predicted: torch.Tensor) -> bytes:
        assert self._factors is not None
        number, _, height, width = predicted.shape
        cells = _to_cells(predicted) / self._scaling
        colours = (cells - self._middle[0]) @ self._factors + self._middle[1]
        pictures = colours.reshape(number, height, width, 3).clip(0, 255).round().astype(np.uint8)
        return encode_webp(pictures, self._rate)

    def _run(self, copy: "HostCopy", work: Callable[[torch.Tensor], T]) -> Future[T]:
        """Have `work` done with `copy`: at once without a GPU, else by the thread, in order."""
        if not copy.from_gpu:
            done: Future[T] = Future()
            done.set_result(work(copy.tensor))
            return done
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="preview")
        return self._thread.submit(self._wait, copy, work)

    def _wait(self, copy: "HostCopy", work: Callable[[torch.Tensor], T]) -> T:
        while not copy.is_ready:
            if self._closed.wait(POLL_S):
                raise CancelledError
        return work(copy.tensor)


def encode_webp(pictures: NDArray[np.uint8], rate: int) -> bytes:
    """Encode `pictures` (number, height, width, 3) as an endless WebP of at most `MAX_BYTES`."""
    height, width = pictures.shape[1:3]
    for side, quality in SIZE_STEPS:
        scale = side / max(height, width)
        size = (round(width * scale), round(height * scale))
        frames = [Image.fromarray(p).resize(size, Image.Resampling.BICUBIC) for p in pictures]
        file = io.BytesIO()
        frames[0].save(
            file, "WEBP", save_all=True, append_images=frames[1:], duration=round(1000 / rate),
            loop=0, quality=quality, method=0,
        )  # fmt: skip
        if file.tell() <= MAX_BYTES:
            break
    return file.getvalue()


def _to_cells(latents: torch.Tensor) -> NDArray[np.float32]:
    """Latents in main memory (frames, channels, height, width) as rows, (cells, channels)."""
    return latents.float().permute(0, 2, 3, 1).flatten(0, 2).numpy()


class HostCopy:
    """A copy of a tensor in main memory, for which neither the GPU nor this thread waits.

    A stream of its own copies into pinned memory. `tensor`: the copy, complete when it `is_ready`.
    Without a GPU it is the tensor itself.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.from_gpu = tensor, tensor.is_cuda
        if not self.from_gpu:
            return
        cuda: Any = torch.cuda
        stream = cuda.Stream(tensor.device)
        stream.wait_stream(cuda.current_stream(tensor.device))
        self.tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        with cuda.stream(stream):
            self.tensor.copy_(tensor, non_blocking=True)
            self._event: Any = cuda.Event()
            self._event.record(stream)
        tensor.record_stream(stream)  # so that its memory is not reused before the copy is done

    @property
    def is_ready(self) -> bool:
        return not self.from_gpu or bool(self._event.query())
