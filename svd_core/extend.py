"""Continuation of a video: made from its last frame, colour-matched and joined to it."""

import io
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from svd_core.errors import InvalidRequest
from svd_core.media.image import Size
from svd_core.media.recipe import MAX_CLIPS, Recipe
from svd_core.messages import Message
from svd_core.params import MAX_FRAMES, VideoParams, VideoRequest
from svd_core.storage import ResultStore
from svd_core.types import Frames, GenerationResult

DRIFT_CORRECTION = 0.5
"""Share of the colour drift that is corrected at the end of the clip. The rest may come from things
that have come into view."""

GAIN_LIMITS = (0.5, 2.0)
"""Limits of the change of contrast, for pictures that have almost none."""

SOFTER, SHIFTED = 0.6, 10.0
"""Thresholds of the warnings about drift: share of the first clip's gradient energy, and shift of a
channel's mean in levels of 255."""

LEVELS = np.arange(256.0)

Picture = NDArray[np.uint8]
Colours = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Mean and standard deviation of each channel, in levels."""


@dataclass(frozen=True)
class PreviousVideo:
    """The video that is continued."""

    frames: Frames
    recipe: Recipe

    @classmethod
    def from_request(cls, request: VideoRequest, store: ResultStore) -> "PreviousVideo | None":
        """The video that `request` continues; None if it continues none.

        Raises `UnknownJob`, and `InvalidRequest` for a video that is already too long.
        """
        if request.continues is None:
            return None
        job_id = request.continues
        previous = cls(store.frames(job_id), Recipe.read(store.path(job_id)))
        previous.check_length(request.params.num_frames or 2)
        return previous

    def check_length(self, more: int) -> None:
        """Raises `InvalidRequest` if `more` frames, the first of them shared, are too many."""
        clips = len(self.recipe.clips)
        if clips >= MAX_CLIPS:
            raise InvalidRequest("clips_exceeded", field="continues", clips=clips)
        if (total := len(self.frames) + more - 1) > MAX_FRAMES:
            raise InvalidRequest("frames_exceeded", field="continues", total=total, most=MAX_FRAMES)

    def check(self, size: Size, more: int) -> None:
        """Raises `InvalidRequest` if a clip of that size and length cannot be joined."""
        self.check_length(more)
        height, width = self.frames.shape[1:3]
        if size != (width, height):
            raise InvalidRequest(
                "size_differs",
                field="continues",
                width=width,
                height=height,
                new_width=size[0],
                new_height=size[1],
            )

    def join(self, clip: GenerationResult) -> GenerationResult:
        """Join `clip`, which begins with the last frame, to the video. Adds notes about drift."""
        frames = np.concatenate([self.frames, match_colours(clip.frames, self.frames[-1])[1:]])
        first = self.frames[: self.recipe.clips[0].params.num_frames]
        return replace(clip, frames=frames, notes=clip.notes + drift(first, frames[-1]))


def continuation_request(store: ResultStore, job_id: str, params: VideoParams) -> VideoRequest:
    """The request that extends the video of `job_id` by a clip with `params`.

    The caller checks that the user may see that video. Raises `UnknownJob`, `InvalidRecipe`,
    `InvalidRequest`.
    """
    plain = replace(params, orientation="auto", fit="crop")  # the frame has the size it needs
    request = VideoRequest(b"", plain, continues=job_id)
    previous = PreviousVideo.from_request(request, store)
    assert previous is not None
    file = io.BytesIO()
    Image.fromarray(previous.frames[-1]).save(file, "PNG", compress_level=1)
    return replace(request, image=file.getvalue())


def match_colours(frames: Frames, to: Picture) -> Frames:
    """`frames` in the colours of the picture `to`, which the first frame copies.

    The model's VAE shifts all frames like the first one. A further change is drift, or something
    that has come into view, so a growing part of it is corrected.
    """
    first, last = _colours(frames[0]), _colours(to)
    times = np.linspace(0, 1, len(frames))
    kept = 1 - DRIFT_CORRECTION * times * times * (3 - 2 * times)
    return np.stack([_recolour(*pair, first, last) for pair in zip(frames, kept, strict=True)])


def _recolour(frame: Picture, kept: float, first: Colours, to: Colours) -> Picture:
    """`frame` with the change from `first` to `to`, and the share `kept` of its own change.

    It uses a table of levels: 25 frames take a tenth of a second.
    """
    middle, spread = _colours(frame)
    gain = to[1] / spread * (spread / first[1]) ** kept
    new_middle = to[0] + (middle - first[0]) * to[1] / first[1] * kept
    levels = (LEVELS - middle[:, None]) * gain.clip(*GAIN_LIMITS)[:, None] + new_middle[:, None]
    table = levels.round().clip(0, 255).astype(int).ravel().tolist()
    return np.asarray(Image.fromarray(frame).point(table))


def drift(first: Frames, last: Picture) -> tuple[Message, ...]:
    """Notes about what the last frame has lost since the first clip."""
    notes = []
    left = _sharpness(last[None]) / max(_sharpness(first), 1e-6)
    if left < SOFTER:
        notes.append(Message("detail_lost", share=1 - left))
    shift = np.abs(last.mean(axis=(0, 1)) - first.mean(axis=(0, 1, 2))).max()
    if shift > SHIFTED:
        notes.append(Message("colours_shifted", share=float(shift) / 255))
    return tuple(notes)


def _colours(picture: Picture) -> Colours:
    counts = np.reshape(Image.fromarray(picture).histogram(), (3, 256))
    share = counts / counts.sum(axis=1, keepdims=True)
    middle = (share * LEVELS).sum(axis=1)
    spread = np.sqrt((share * (LEVELS - middle[:, None]) ** 2).sum(axis=1))
    return middle, np.maximum(spread, 1.0)


def _sharpness(frames: Frames) -> float:
    """Gradient energy: mean square of the steps to the right and lower neighbours."""
    grey = frames.mean(axis=-1, dtype=np.float32)
    across, down = np.diff(grey, axis=2), np.diff(grey, axis=1)
    return float((across**2).mean() + (down**2).mean())
