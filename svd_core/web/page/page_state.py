"""The parts of the page that its actions have in common."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from svd_core.checkpoints.catalog import Offer
from svd_core.checkpoints.speed_modes import exactly
from svd_core.errors import SvdError
from svd_core.jobs import Job
from svd_core.media.image import Size
from svd_core.params import Interpolation, VideoParams
from svd_core.web.page.backend import Backend
from svd_core.web.page.components import Kept, Photo, Tick
from svd_core.web.page.controls import Changes, Dials, shown, unmarked, wrong_with
from svd_core.web.page.framing import Framing
from svd_core.web.page.gallery import Gallery
from svd_core.web.page.i18n import Texts
from svd_core.web.page.playback import Playback, of_example, of_job
from svd_core.web.page.player import Screen


@dataclass(frozen=True)
class Studio:
    """`watchers`: how many jobs may be watched at once; each takes a thread. `examples`: videos by
    name. `chosen`: the interpolation that the visitor chose; None: by the video's rate."""

    backend: Backend
    photo: Photo
    framing: Framing
    dials: Dials
    screen: Screen
    gallery: Gallery
    visitor: Kept
    random: Tick
    chosen: gr.State
    examples: Mapping[str, Path]
    watchers: int
    watching: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        options = {
            "concurrency_limit": self.watchers,
            "concurrency_id": "watch",
            "trigger_mode": "multiple",  # or Gradio drops a job begun while the last one ends
            "show_progress": "hidden",
            "api_visibility": "private",
        }
        object.__setattr__(self, "watching", options)

    @property
    def outputs(self) -> list[Block]:
        own: list[Block] = [self.photo, *self.framing.outputs, self.visitor]
        chosen = [self.random, self.chosen]
        return [*own, *chosen, *self.screen.outputs, *self.gallery.outputs]

    @property
    def watched(self) -> list[Block]:
        return [*self.screen.watched, *self.gallery.outputs]

    @property
    def offer(self) -> Offer:
        return self.backend.status().offer

    def sizes(self, given: dict[Component, Any]) -> Sequence[Size]:
        """What the checkpoint on the dial was trained for. Raises `InvalidRequest`."""
        return self.offer.named(given[self.dials["model"]]).sizes

    @property
    def asked(self) -> set[Block]:
        """What a visitor asks for, and who it is: inputs of whatever makes a video."""
        return {self.photo, self.random, self.framing.framer, self.visitor, *self.dials.values()}

    def values(self, given: dict[Component, Any]) -> dict[str, Any]:
        """The dials by the core's names; None for an empty field, and for a seed to be drawn."""
        values = {name: given[dial] for name, dial in self.dials.items()}
        values["interpolation"] = "off"  # the player adds in-between frames to what is kept
        return values | {"seed": None} if given[self.random] else values

    def shown(self, params: VideoParams, say: Texts, changes: Changes | None = None) -> Changes:
        """The dials as `params` say, besides other `changes`; one that cannot be so says it."""
        if params.interpolation != "off":
            changes = {**(changes or {}), self.chosen: params.interpolation}
        if not (lacking := self.lacking(params, say)):
            return shown(params, self.dials, changes)
        told, speed = shown(exactly(params), self.dials, changes), self.dials["speed"]
        return told | {speed: told[speed] | wrong_with(speed, *lacking)}

    def lacking(self, params: VideoParams, say: Texts) -> list[str]:
        """The sentence about what of `params` is not to be had here, if there is such."""
        return [] if params.speed in self.backend.speed_ups.speeds else [say("speed_instead")]

    def known(self, card: object) -> str:
        """The visitor's number that a browser sent, or a new one."""
        return self.backend.visitors.known(card)

    def begin(
        self, ask: Callable[[str], Sequence[Job]], card: object, say: Texts, still: str = ""
    ) -> Changes:
        """Submit by `ask`, which is given the visitor; errors are said where they belong."""
        visitor = self.known(card)
        try:
            jobs = ask(visitor)
        except SvdError as error:
            return self.screen.refused(error, say)
        return {self.visitor: visitor} | self.turn_to(jobs, visitor, say, still)

    def turn_to(self, jobs: Sequence[Job], visitor: str, say: Texts, still: str = "") -> Changes:
        """The screen is for `jobs` from now on."""
        return (
            unmarked(self.dials)
            | self.screen.begin(jobs, say, still)
            | {self.screen.wanted: [job.id for job in jobs]}
            | self.history(visitor, say)
        )

    def playback(self, playing: object, chosen: Interpolation | None, card: object) -> Changes:
        """The player with the file of `playing`, see `Screen.playing`, and its switch. The video
        stays as it is where that file cannot be made.

        Raises `SvdError`, but only for an interpolation that the visitor chose.
        """
        switch = self.dials["interpolation"]
        try:
            file = self._playback_file(playing, chosen, card)
        except SvdError:
            if chosen is not None:
                raise
            file = None
        if file is None:
            return {switch: gr.update(visible="hidden")}
        return {
            self.screen.player: gr.update(value=str(file.path)),
            self.screen.playing: playing,
            switch: gr.update(value=file.interpolation, visible=True),
        }

    def _playback_file(
        self, playing: object, chosen: Interpolation | None, card: object
    ) -> Playback | None:
        about = playing if isinstance(playing, dict) else {}
        results, example = self.backend.results, about.get("example")
        if isinstance(example, str) and example in self.examples:
            return of_example(results, self.examples[example], chosen)
        job = self.backend.job(about.get("job"), card)
        if job is None or job.params is None:
            return None
        return of_job(results, job.id, job.params.rate, chosen)

    def history(self, visitor: str, say: Texts) -> Changes:
        return self.gallery.of(self.backend.jobs(visitor), say)
