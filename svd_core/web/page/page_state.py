"""Page state: the components that most event handlers share, and the changes they make."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.checkpoints.speed_modes import reset_speed
from svd_core.errors import SvdError
from svd_core.jobs import Job
from svd_core.params import VideoParams, VideoRequest
from svd_core.web.page.backend import Backend
from svd_core.web.page.components import BrowserState, Checkbox, Photo
from svd_core.web.page.controls import Changes, Controls, Inputs, clear_errors, error_update
from svd_core.web.page.formatting import error_html
from svd_core.web.page.gallery import Gallery
from svd_core.web.page.i18n import Texts
from svd_core.web.page.player import Player


@dataclass(frozen=True)
class PageState:
    """Components, backend and limits of the page.

    `cached_photo`: the decoded photo (`CachedPhoto`); None without a usable photo. `interpolation`:
    the visitor's choice; None: chosen by the frame rate of the video. `examples`: videos by name.
    `max_followers`: jobs that may be followed at once; each takes a thread.
    """

    backend: Backend
    photo: Photo
    cached_photo: gr.State
    controls: Controls
    player: Player
    gallery: Gallery
    session: BrowserState
    random_seed: Checkbox
    interpolation: gr.State
    examples: Mapping[str, Path]
    max_followers: int

    @property
    def inputs(self) -> set[Block]:
        """Inputs of every handler that makes a video: photo, settings and session."""
        return {
            self.photo, self.random_seed, self.cached_photo, self.session, *self.controls.values()
        }  # fmt: skip

    @property
    def outputs(self) -> list[Block]:
        """Components that a handler that shows jobs may change."""
        shown = [self.photo, self.session, self.random_seed, self.interpolation]
        return list(dict.fromkeys([*shown, *self.followed_outputs, *self.controls.values()]))

    @property
    def followed_outputs(self) -> list[Block]:
        """Components that a job changes while the page follows it."""
        return [*self.player.followed_outputs, *self.gallery.outputs]

    @property
    def follow_options(self) -> dict[str, Any]:
        """Options of an event that follows jobs to their end."""
        return {
            "concurrency_limit": self.max_followers,
            "concurrency_id": "watch",
            "trigger_mode": "multiple",  # or Gradio drops a job that starts as the last one ends
            "show_progress": "hidden",
            "api_visibility": "private",
        }

    @property
    def catalog(self) -> ModelCatalog:
        """The checkpoints of this server."""
        return self.backend.status().catalog

    def values(self, inputs: Inputs) -> dict[str, Any]:
        """The settings by the core's names; None for an empty field and for a random seed."""
        values = {name: inputs[control] for name, control in self.controls.items()}
        values["interpolation"] = "off"  # the player adds in-between frames to the stored video
        return values | {"seed": None} if inputs[self.random_seed] else values

    def set_values(self, params: VideoParams, t: Texts, changes: Changes | None = None) -> Changes:
        """The controls set to `params`, added to other `changes`.

        A value that this server does not have is replaced, with a message at its control.
        """
        updates = dict(changes or {})
        if params.interpolation != "off":
            updates[self.interpolation] = params.interpolation
        notes = self.unavailable_notes(params, t)
        values = (reset_speed(params) if notes else params).to_mapping()
        del values["interpolation"]  # its control belongs to the video in the player
        for name, value in values.items():
            update = updates.get(self.controls[name]) or gr.update()
            updates[self.controls[name]] = update | {
                "value": str(value) if name == "seed" else value
            }
        if notes:
            speed = self.controls["speed"]
            updates[speed] |= error_update(speed, *notes)
        return updates

    def unavailable_notes(self, params: VideoParams, t: Texts) -> list[str]:
        """Messages about values of `params` that this server does not have."""
        return [] if params.speed in self.backend.acceleration.speeds else [t("speed_instead")]

    def show_jobs(
        self, jobs: Sequence[Job], session: str, t: Texts, placeholder: str = ""
    ) -> Changes:
        """The changes after which the player shows and follows `jobs`."""
        return (
            clear_errors(self.controls)
            | self.player.begin(jobs, t, placeholder)
            | {self.session: session, self.player.to_follow: [job.id for job in jobs]}
            | self.refresh_gallery(session, t)
        )

    def submit_follow_up(
        self, job: Job | None, make: Callable[[Job], VideoRequest], session: Any, t: Texts
    ) -> Changes:
        """Submit the request that `make` derives from `job`, and set the controls to it."""
        if job is None:
            return {self.player.line: error_html(t("nothing_there"))}
        try:
            request = make(job)
            shown = [self.backend.submit_request(request, session)]
        except SvdError as error:
            return self.player.show_error(error, t)
        return self.set_values(request.params, t, self.show_jobs(shown, session, t))

    def job_in_player(self, ids: Sequence[str], session: object) -> Job | None:
        """The job whose video the player has, if it is the visitor's. `ids`: `player.current`."""
        return self.backend.job(ids[0] if ids else None, session)

    def refresh_gallery(self, session: object, t: Texts) -> Changes:
        """The changes that show the visitor's jobs in the gallery."""
        return self.gallery.update(self.backend.jobs(session), t)
