"""Smooth playback: files with in-between frames for the player, of videos and of examples.

Invariant: only playback changes. Recipe, extending and the last frame use the original frames.
"""

import hashlib
import shutil
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


def example_playback(
    results: ResultStore, video: Path, chosen: Interpolation | None
) -> tuple[Path, Interpolation]:
    """The playback file of an example, and its interpolation.

    It is made from a copy of `video` beside the results. `chosen`: by the visitor; None for the
    default. Raises what `ResultStore.playback` raises.
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
    interpolation = chosen or default_interpolation(read_rate(copy))
    return store.playback(job_id, interpolation), interpolation


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
        # Meanwhile the visitor may have started another video, which the player shows now.
        return SKIP if any(not job.done for job in state.backend.jobs(session)) else changes

    inputs = [player.playing, state.interpolation, state.session]
    outputs = [player.video, player.playing, state.controls["interpolation"], player.line]
    shown.then(on_shown, inputs, outputs, **UNQUEUED_EVENT | {"trigger_mode": "multiple"})


def _play(
    state: PageState, playing: dict[str, str] | None, chosen: Interpolation | None, session: object
) -> Changes:
    """The player with the file of `playing`, see `Player.playing`, and its switch.

    Without that file, the video stays as it is. Raises `SvdError`, but only for an interpolation
    that the visitor chose.
    """
    switch, source = state.controls["interpolation"], playing or {}
    unchanged: Changes = {switch: gr.update(visible="hidden")}
    results, video = state.backend.results, state.examples.get(source.get("example", ""))
    job = state.backend.job(source.get("job"), session)
    try:
        if video is not None:
            path, interpolation = example_playback(results, video, chosen)
        elif job is not None and job.params is not None:
            interpolation = chosen or default_interpolation(job.params.rate)
            path = results.playback(job.id, interpolation)
        else:
            return unchanged
    except SvdError:
        if chosen is not None:
            raise
        return unchanged
    return {
        state.player.video: gr.update(value=str(path)),
        state.player.playing: playing,
        switch: gr.update(value=interpolation, visible=True),
    }
