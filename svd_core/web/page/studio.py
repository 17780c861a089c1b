"""The parts of the page that its actions have in common, and the ways they run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gradio.blocks import Block
from gradio.components import Component

from svd_core.errors import SvdError
from svd_core.image import Size
from svd_core.jobs import Job
from svd_core.web.page.backend import Backend
from svd_core.web.page.components import Kept, Photo, Tick
from svd_core.web.page.dials import Changes, Dials
from svd_core.web.page.framing import Framing
from svd_core.web.page.history import Gallery
from svd_core.web.page.screen import Screen
from svd_core.web.page.texts import Texts
from svd_core.web.page.visitor import known


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
    def sizes(self) -> Sequence[Size]:
        """What the model that runs was trained for."""
        return self.backend.status().checkpoint.sizes

    @property
    def asked(self) -> set[Block]:
        """What a visitor asks for, and who it is: inputs of whatever makes a video."""
        return {self.photo, self.random, self.framing.framer, self.visitor, *self.dials.values()}

    def values(self, given: dict[Component, Any]) -> dict[str, Any]:
        """The dials by the core's names; None for an empty field, and for a seed to be drawn."""
        values = {name: given[dial] for name, dial in self.dials.items()}
        return values | {"seed": None} if given[self.random] else values

    def run(
        self, ask: Callable[[str], Sequence[Job]], card: object, say: Texts, still: str = ""
    ) -> Iterator[Changes]:
        """Submit by `ask`, which is given the visitor, and watch what comes of it, one job after
        the other; errors are said where they belong."""
        visitor = known(card)
        try:
            jobs = ask(visitor)
        except SvdError as error:
            yield self.screen.refused(error)
            return
        yield {self.visitor: visitor}
        for job in jobs:
            yield from self.show(job, visitor, say, still)

    def show(self, job: Job, visitor: str, say: Texts, still: str = "") -> Iterator[Changes]:
        """Watch one job, with the gallery at its beginning and its end."""
        for number, changes in enumerate(self.screen.watch(job, say, still)):
            yield changes if number else changes | self.history(visitor, say)
        yield self.history(visitor, say)

    def history(self, visitor: str, say: Texts) -> Changes:
        return self.gallery.of(self.backend.jobs(visitor), say)
