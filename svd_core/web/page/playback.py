"""Smooth playback: files for the player with in-between frames, of videos and of examples.

Only what plays changes. Recipe, extending and the last frame use the original frames.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from svd_core.media.video import read_rate
from svd_core.params import FACTORS, Interpolation
from svd_core.storage import ResultStore

SMOOTH_FPS = 15
"""From this rate on a video plays as it is."""

FILM_FPS = 24
"""Rate that in-between frames should reach."""


def default_interpolation(fps: int) -> Interpolation:
    """The interpolation of a video that plays at `fps`, if the visitor has not chosen one."""
    if fps >= SMOOTH_FPS:
        return "off"
    return next((each for each, factor in FACTORS.items() if fps * factor >= FILM_FPS), "4x")


@dataclass(frozen=True)
class Playback:
    """A file for the player, and the interpolation that was asked for."""

    path: Path
    interpolation: Interpolation


def playback_of_job(
    results: ResultStore, job_id: str, rate: int, chosen: Interpolation | None
) -> Playback:
    """The video of a job whose original frames play at `rate` frames per second.

    `chosen`: by the visitor; None for the default. Raises what `ResultStore.playback` raises.
    """
    interpolation = chosen or default_interpolation(rate)
    return Playback(results.playback(job_id, interpolation), interpolation)


def playback_of_example(
    results: ResultStore, video: Path, chosen: Interpolation | None
) -> Playback:
    """An example's video. It is copied beside the results, where its playback files may lie.

    Raises what `ResultStore.playback` raises.
    """
    store = ResultStore(results.folder / "examples", keep_frames=False)
    about = video.stat()
    name = f"{video.absolute()} {about.st_size} {about.st_mtime_ns}"
    job_id = hashlib.sha256(name.encode()).hexdigest()[:32]
    copy = store.path(job_id)
    if not copy.is_file():
        part = copy.with_suffix(".part")
        shutil.copyfile(video, part)
        part.replace(copy)
    return playback_of_job(store, job_id, read_rate(copy), chosen)
