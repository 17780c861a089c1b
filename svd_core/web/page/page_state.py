"""Page state: the components that most event handlers share, and the changes they make."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.checkpoints.speed_modes import reset_speed
from svd_core.errors import SvdError
from svd_core.jobs import Job
from svd_core.media.image import Size
from svd_core.params import VideoParams
from svd_core.web.page.backend import Backend
from svd_core.web.page.components import BrowserState, Checkbox, Photo
from svd_core.web.page.controls import (
    Changes,
    Controls,
    Inputs,
    clear_errors,
    error_update,
    set_values,
)
from svd_core.web.page.framing import Framing
from svd_core.web.page.gallery import Gallery
from svd_core.web.page.i18n import Texts
from svd_core.web.page.player import Player


@dataclass(frozen=True)
class PageState:
    """Components, backend and limits of the page.

    `interpolation`: as the visitor chose it; None: by the rate of the video. `examples`: videos by
    name. `max_followers`: jobs that may be followed at once; each takes a thread.
    """

    backend: Backend
    photo: Photo
    framing: Framing
    controls: Controls
    player: Player
    gallery: Gallery
    session: BrowserState
    random_seed: Checkbox
    interpolation: gr.State
    examples: Mapping[str, Path]
    max_followers: int
    follow_options: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        options = {
            "concurrency_limit": self.max_followers,
            "concurrency_id": "watch",
            "trigger_mode": "multiple",  # or Gradio drops a job begun while the last one ends
            "show_progress": "hidden",
            "api_visibility": "private",
        }
        object.__setattr__(self, "follow_options", options)

    @property
    def outputs(self) -> list[Block]:
        """Components that a handler that shows jobs may change."""
        return [
            self.photo,
            *self.framing.outputs,
            self.session,
            self.random_seed,
            self.interpolation,
            *self.player.outputs,
            *self.gallery.outputs,
        ]

    @property
    def followed_outputs(self) -> list[Block]:
        """Components that a job changes while the page follows it."""
        return [*self.player.followed_outputs, *self.gallery.outputs]

    @property
    def inputs(self) -> set[Block]:
        """Inputs of every handler that makes a video: photo, settings and session."""
        return {
            self.photo,
            self.random_seed,
            self.framing.cached_photo,
            self.session,
            *self.controls.values(),
        }

    @property
    def catalog(self) -> ModelCatalog:
        """The checkpoints of this server."""
        return self.backend.status().catalog

    def sizes(self, inputs: Inputs) -> Sequence[Size]:
        """The sizes that the chosen checkpoint was trained for. Raises `InvalidRequest`."""
        return self.catalog.get(inputs[self.controls["model"]]).sizes

    def values(self, inputs: Inputs) -> dict[str, Any]:
        """The settings by the core's names; None for an empty field and for a random seed."""
        values = {name: inputs[control] for name, control in self.controls.items()}
        values["interpolation"] = "off"  # the player adds in-between frames to the stored video
        return values | {"seed": None} if inputs[self.random_seed] else values

    def set_values(self, params: VideoParams, t: Texts, changes: Changes | None = None) -> Changes:
        """The controls set to `params`, added to other `changes`.

        A value that this server does not have is replaced, with a message at its control.
        """
        if params.interpolation != "off":
            changes = {**(changes or {}), self.interpolation: params.interpolation}
        notes = self.unavailable_notes(params, t)
        if not notes:
            return set_values(params, self.controls, changes)
        updates = set_values(reset_speed(params), self.controls, changes)
        speed = self.controls["speed"]
        return updates | {speed: updates[speed] | error_update(speed, *notes)}

    def unavailable_notes(self, params: VideoParams, t: Texts) -> list[str]:
        """Messages about values of `params` that this server does not have."""
        return [] if params.speed in self.backend.acceleration.speeds else [t("speed_instead")]

    def ensure_session_id(self, session: object) -> str:
        """The session id that a browser sent, if it is valid, else a new one."""
        return self.backend.session_ids.ensure_id(session)

    def submit(
        self,
        submit: Callable[[str], Sequence[Job]],
        session: object,
        t: Texts,
        placeholder: str = "",
    ) -> Changes:
        """Call `submit` with the session id and show its jobs, or the error at its control."""
        session_id = self.ensure_session_id(session)
        try:
            jobs = submit(session_id)
        except SvdError as error:
            return self.player.show_error(error, t)
        return {self.session: session_id} | self.show_jobs(jobs, session_id, t, placeholder)

    def show_jobs(
        self, jobs: Sequence[Job], session_id: str, t: Texts, placeholder: str = ""
    ) -> Changes:
        """The changes after which the player shows and follows `jobs`."""
        return (
            clear_errors(self.controls)
            | self.player.begin(jobs, t, placeholder)
            | {self.player.to_follow: [job.id for job in jobs]}
            | self.refresh_gallery(session_id, t)
        )

    def refresh_gallery(self, session_id: str, t: Texts) -> Changes:
        """The changes that show the visitor's jobs in the gallery."""
        return self.gallery.update(self.backend.jobs(session_id), t)
