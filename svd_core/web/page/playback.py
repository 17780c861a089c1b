"""Smooth playback: files with in-between frames for the player, of videos and of examples.

Invariant: only what plays changes. Recipe, extending and the last frame use the original frames.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import Dependency

from svd_core.errors import SvdError
from svd_core.media.video import read_rate
from svd_core.params import FACTORS, Interpolation
from svd_core.storage import ResultStore
from svd_core.web.page.components import UNQUEUED_EVENT
from svd_core.web.page.controls import SKIP, Changes
from svd_core.web.page.formatting import refused_html
from svd_core.web.page.i18n import texts_for
from svd_core.web.page.page_state import PageState

SMOOTH_FPS = 15
"""Rate from which a video plays as it is."""

FILM_FPS = 24
"""Rate that in-between frames should reach."""


def default_interpolation(fps: int) -> Interpolation:
    """The interpolation of a video that plays at `fps`, if the visitor has not chosen one."""
    if fps >= SMOOTH_FPS:
        return "off"
    return next((each for each, factor in FACTORS.items() if fps * factor >= FILM_FPS), "4x")


@dataclass(frozen=True)
class Playback:
    """File for the player, and the interpolation that was requested for it."""

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
    """An example's video, copied beside the results, where its playback files may lie.

    Raises what `ResultStore.playback` raises.
    """
    store = ResultStore(results.folder / "examples", keep_frames=False)
    stat = video.stat()
    name = f"{video.absolute()} {stat.st_size} {stat.st_mtime_ns}"
    job_id = hashlib.sha256(name.encode()).hexdigest()[:32]
    copy = store.path(job_id)
    if not copy.is_file():
        part = copy.with_suffix(".part")
        shutil.copyfile(video, part)
        part.replace(copy)
    return playback_of_job(store, job_id, read_rate(copy), chosen)


def bind_interpolation(state: PageState) -> Dependency:
    """Apply the visitor's choice of in-between frames to this video and the next ones.

    Returns the event after the choice.
    """
    player, switch = state.player, state.controls["interpolation"]

    def on_switch(value: Any, playing: Any, session: Any, request: gr.Request) -> Changes:
        if value not in FACTORS:
            return SKIP
        try:
            return _play(state, playing, value, session) | {state.interpolation: value}
        except SvdError as error:
            return {player.line: refused_html(error, texts_for(request))}

    switched: Dependency = switch.input(  # type: ignore[attr-defined]
        on_switch,
        [switch, player.playing, state.session],
        [player.video, player.playing, switch, state.interpolation, player.line],
        **UNQUEUED_EVENT,
    )
    return switched


def play_interpolated(state: PageState, shown: Dependency) -> None:
    """After the event `shown`, give the player the file with in-between frames."""
    player = state.player

    def on_shown(playing: Any, chosen: Any, session: Any, request: gr.Request) -> Changes:
        if playing is None:
            return SKIP
        try:
            changes = _play(state, playing, chosen, session)
        except SvdError as error:
            return {player.line: refused_html(error, texts_for(request))}
        # Meanwhile the visitor may have started another video, which has the screen now.
        return SKIP if any(not job.done for job in state.backend.jobs(session)) else changes

    inputs = [player.playing, state.interpolation, state.session]
    outputs = [player.video, player.playing, state.controls["interpolation"], player.line]
    shown.then(on_shown, inputs, outputs, **UNQUEUED_EVENT | {"trigger_mode": "multiple"})


def _play(
    state: PageState, playing: object, chosen: Interpolation | None, session: object
) -> Changes:
    """The player with the file of `playing`, see `Player.playing`, and its switch.

    The video stays as it is where that file cannot be made. Raises `SvdError`, but only for an
    interpolation that the visitor chose.
    """
    switch = state.controls["interpolation"]
    try:
        playback = _find_playback(state, playing, chosen, session)
    except SvdError:
        if chosen is not None:
            raise
        playback = None
    if playback is None:
        return {switch: gr.update(visible="hidden")}
    return {
        state.player.video: gr.update(value=str(playback.path)),
        state.player.playing: playing,
        switch: gr.update(value=playback.interpolation, visible=True),
    }


def _find_playback(
    state: PageState, playing: object, chosen: Interpolation | None, session: object
) -> Playback | None:
    source = playing if isinstance(playing, dict) else {}
    results, example = state.backend.results, source.get("example")
    if isinstance(example, str) and example in state.examples:
        return playback_of_example(results, state.examples[example], chosen)
    job = state.backend.job(source.get("job"), session)
    if job is None or job.params is None:
        return None
    return playback_of_job(results, job.id, job.params.rate, chosen)
