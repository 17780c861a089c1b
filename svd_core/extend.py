"""A video that goes on: made from its last frame, in its colours, and joined to it."""

import io
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from svd_core.clip import Clip, Frames
from svd_core.errors import InvalidRequest
from svd_core.image import Size
from svd_core.params import VideoParams, VideoRequest
from svd_core.recipe import MAX_CLIPS, Recipe
from svd_core.storage import ResultStore

MAX_FRAMES = 150
"""Six clips of SVD-XT, all it makes of one photo before it is another: some 270 MB at 1024x576."""

TAKEN_BACK = 0.5
"""How much of the drift of colours since the last frame is taken back at the end of the clip. Not
all of it: what has come into view has colours too."""

GAINS = (0.5, 2.0)
"""Limits of how much contrast is changed, for pictures that have next to none."""

SOFTER, SHIFTED = 0.6, 10.0
"""When drift is worth a warning: gradient energy left of the first clip's, and levels of 255 by
which a channel's mean is off."""

Colours = NDArray[np.float32]
"""Of each channel the mean or the deviation, in levels: shape (3,), or (num_frames, 1, 1, 3)."""


@dataclass(frozen=True)
class Earlier:
    """The video that is continued."""

    frames: Frames
    recipe: Recipe

    @classmethod
    def of(cls, request: VideoRequest, store: ResultStore) -> "Earlier | None":
        """What `request` continues, None if it is a beginning. Raises `UnknownJob`, and
        `InvalidRequest` for a video that is too long already."""
        if request.continues is None:
            return None
        job_id = request.continues
        earlier = cls(store.frames(job_id), Recipe.read(store.path(job_id)))
        earlier.check_length(request.params.num_frames or 2)
        return earlier

    def check_length(self, more: int) -> None:
        """Raises `InvalidRequest` where `more` frames, the first one doubled, are too many."""
        clips = len(self.recipe.clips)
        if clips >= MAX_CLIPS:
            raise _refused(
                f"The video consists of {clips} clips already, which is as many as are joined; "
                "begin a new one from its last frame."
            )
        if (total := len(self.frames) + more - 1) > MAX_FRAMES:
            raise _refused(
                f"The video would have {total} frames and may have {MAX_FRAMES}; begin a new one "
                "from its last frame, or ask for fewer frames."
            )

    def check(self, size: Size, more: int) -> None:
        """Raises `InvalidRequest` where a clip of that size and length cannot be joined."""
        self.check_length(more)
        height, width = self.frames.shape[1:3]
        if size != (width, height):
            raise _refused(
                f"The video is {width}x{height}, and this model goes on in {size[0]}x{size[1]}; "
                "continue it with the model that made it."
            )

    def joined(self, clip: Clip) -> Clip:
        """The video and `clip`, which begins with its last frame, as one. See `Video.notes`."""
        frames = np.concatenate([self.frames, matched(clip.frames, self.frames[-1])[1:]])
        first = self.frames[: self.recipe.clips[0].params.num_frames]
        return replace(clip, frames=frames, notes=clip.notes + drift(first, frames[-1]))


def continuing(store: ResultStore, job_id: str, params: VideoParams) -> VideoRequest:
    """The request that makes the video of `job_id` longer by a clip with `params`.

    The caller has to know that whoever asks may see that video. Raises `UnknownJob`,
    `InvalidRecipe`, `InvalidRequest`.
    """
    plain = replace(params, orientation="auto", fit="crop")  # the frame has the size it needs
    request = VideoRequest(b"", plain, continues=job_id)
    earlier = Earlier.of(request, store)
    assert earlier is not None
    file = io.BytesIO()
    Image.fromarray(earlier.frames[-1]).save(file, "PNG", compress_level=1)
    return replace(request, image=file.getvalue())


def matched(frames: Frames, to: NDArray[np.uint8]) -> Frames:
    """`frames` in the colours of the picture `to`, of which the first one is a copy.

    What the first frame is off by, all are: the model's coder does that. What the later ones are
    off by beyond that is drift, or has come into view, and is taken back by a growing part.
    """
    found = np.empty_like(frames)
    first_middle, first_spread = _colours(frames[:1])
    to_middle, to_spread = _colours(to[None])
    for frame, into, time in zip(frames, found, np.linspace(0, 1, len(frames)), strict=True):
        middle, spread = _colours(frame[None])
        kept = 1 - TAKEN_BACK * time * time * (3 - 2 * time)
        gain = to_spread / spread * (spread / first_spread) ** kept
        shift = (middle - first_middle) * to_spread / first_spread * kept
        new = (frame - middle[0]) * gain[0].clip(*GAINS) + to_middle[0] + shift[0].clip(-255, 255)
        into[:] = new.round().clip(0, 255)
    return found


def drift(first: Frames, last: NDArray[np.uint8]) -> tuple[str, ...]:
    """Sentences about what the last frame has lost since the first clip."""
    notes = []
    left = _sharpness(last[None]) / max(_sharpness(first), 1e-6)
    if left < SOFTER:
        notes.append(
            f"The end of the video has {1 - left:.0%} less detail than its first clip; going on "
            "from here will lose more."
        )
    shift = np.abs(_colours(last[None])[0] - _colours(first)[0].mean(axis=0)).max()
    if shift > SHIFTED:
        notes.append(
            f"The colours at the end of the video are off by {shift / 255:.0%} from its first "
            "clip; going on from here will shift them further."
        )
    return tuple(notes)


def _colours(frames: Frames) -> tuple[Colours, Colours]:
    """(mean, deviation) of each frame, (num_frames, 1, 1, 3)."""
    middle = frames.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    spread = frames.std(axis=(1, 2), keepdims=True, dtype=np.float32)
    return middle, np.maximum(spread, 1.0)


def _sharpness(frames: Frames) -> float:
    """Mean square of the steps in brightness to the right and lower neighbours."""
    grey = frames.mean(axis=-1, dtype=np.float32)
    across, down = np.diff(grey, axis=2), np.diff(grey, axis=1)
    return float((across**2).mean() + (down**2).mean())


def _refused(sentence: str) -> InvalidRequest:
    return InvalidRequest("continues", sentence)
