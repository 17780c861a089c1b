"""The parts of the page that its actions have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gradio.blocks import Block
from gradio.components import Component

from svd_core.errors import SvdError
from svd_core.image import Size
from svd_core.jobs import Job
from svd_core.offer import Offer
from svd_core.params import VideoParams
from svd_core.speed import exactly
from svd_core.web.page.backend import Backend
from svd_core.web.page.components import Kept, Photo, Tick
from svd_core.web.page.dials import Changes, Dials, shown, unmarked, wrong_with
from svd_core.web.page.framing import Framing
from svd_core.web.page.history import Gallery
from svd_core.web.page.screen import Screen
from svd_core.web.page.texts import Texts


@dataclass(frozen=True)
class Studio:
    """`watchers`: how many jobs may be watched at once; each takes a thread."""

    backend: Backend
    photo: Photo
    framing: Framing
    dials: Dials
    screen: Screen
    gallery: Gallery
    visitor: Kept
    random: Tick
    watchers: int
    watching: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        options = {
            "concurrency_limit": self.watchers,
            "concurrency_id": "watch",
            "show_progress": "hidden",
            "api_visibility": "private",
        }
        object.__setattr__(self, "watching", options)

    @property
    def outputs(self) -> list[Block]:
        framing = [self.framing.figure, self.framing.framer]
        own: list[Block] = [self.photo, *framing, self.visitor, self.random]
        return [*own, *self.screen.outputs, *self.gallery.outputs]

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
        return values | {"seed": None} if given[self.random] else values

    def shown(self, params: VideoParams, say: Texts, changes: Changes | None = None) -> Changes:
        """The dials as `params` say, besides other `changes`; one that cannot be so says it."""
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

    def history(self, visitor: str, say: Texts) -> Changes:
        return self.gallery.of(self.backend.jobs(visitor), say)
