"""Page state: the components that most event handlers need, and what they do with them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.checkpoints.speed_modes import reset_speed
from svd_core.errors import SvdError
from svd_core.jobs import Job
from svd_core.media.image import Size
from svd_core.params import VideoParams
from svd_core.web.page.backend import Backend
from svd_core.web.page.components import BrowserState, Checkbox, Photo
from svd_core.web.page.controls import Changes, Controls, clear_errors, error_update, set_values
from svd_core.web.page.framing import Framing
from svd_core.web.page.gallery import Gallery
from svd_core.web.page.i18n import Texts
from svd_core.web.page.player import Player


@dataclass(frozen=True)
class PageState:
    """`max_followers`: jobs that may be followed at once; each takes a thread. `examples`: videos
    by name. `interpolation`: as the visitor chose it; None: by the rate of the video."""

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
        own: list[Block] = [self.photo, *self.framing.outputs, self.session]
        chosen = [self.random_seed, self.interpolation]
        return [*own, *chosen, *self.player.outputs, *self.gallery.outputs]

    @property
    def followed_outputs(self) -> list[Block]:
        return [*self.player.followed_outputs, *self.gallery.outputs]

    @property
    def catalog(self) -> ModelCatalog:
        return self.backend.status().catalog

    def sizes(self, given: dict[Component, Any]) -> Sequence[Size]:
        """What the checkpoint on the dial was trained for. Raises `InvalidRequest`."""
        return self.catalog.get(given[self.controls["model"]]).sizes

    @property
    def inputs(self) -> set[Block]:
        """What a visitor asks for, and who it is: inputs of whatever makes a video."""
        return {
            self.photo,
            self.random_seed,
            self.framing.cached_photo,
            self.session,
            *self.controls.values(),
        }

    def values(self, given: dict[Component, Any]) -> dict[str, Any]:
        """The dials by the core's names; None for an empty field, and for a seed to be drawn."""
        values = {name: given[control] for name, control in self.controls.items()}
        values["interpolation"] = "off"  # the player adds in-between frames to what is kept
        return values | {"seed": None} if given[self.random_seed] else values

    def set_values(self, params: VideoParams, t: Texts, changes: Changes | None = None) -> Changes:
        """The dials as `params` say, besides other `changes`; one that cannot be so says it."""
        if params.interpolation != "off":
            changes = {**(changes or {}), self.interpolation: params.interpolation}
        if not (lacking := self.unavailable_notes(params, t)):
            return set_values(params, self.controls, changes)
        told, speed = (
            set_values(reset_speed(params), self.controls, changes),
            self.controls["speed"],
        )
        return told | {speed: told[speed] | error_update(speed, *lacking)}

    def unavailable_notes(self, params: VideoParams, t: Texts) -> list[str]:
        """The sentence about what of `params` is not to be had here, if there is such."""
        return [] if params.speed in self.backend.acceleration.speeds else [t("speed_instead")]

    def ensure_session_id(self, session: object) -> str:
        """The visitor's number that a browser sent, or a new one."""
        return self.backend.session_ids.ensure_id(session)

    def submit(
        self, ask: Callable[[str], Sequence[Job]], session: object, t: Texts, still: str = ""
    ) -> Changes:
        """Submit by `ask`, which is given the visitor; errors are said where they belong."""
        session_id = self.ensure_session_id(session)
        try:
            jobs = ask(session_id)
        except SvdError as error:
            return self.player.show_error(error, t)
        return {self.session: session_id} | self.show_jobs(jobs, session_id, t, still)

    def show_jobs(self, jobs: Sequence[Job], session_id: str, t: Texts, still: str = "") -> Changes:
        """The screen is for `jobs` from now on."""
        return (
            clear_errors(self.controls)
            | self.player.begin(jobs, t, still)
            | {self.player.to_follow: [job.id for job in jobs]}
            | self.refresh_gallery(session_id, t)
        )

    def refresh_gallery(self, session_id: str, t: Texts) -> Changes:
        return self.gallery.update(self.backend.jobs(session_id), t)
