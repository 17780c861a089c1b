"""Rounds of a comparison: variants make their clips in turn, within a budget of seconds.

Every clip is reported when it is made. A contestant that raises anything drops out; the others go
on. A clip is begun only if the contestant's last one would still fit.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from svd_core.benchmarks.vs_diffusers.timing import ClipTiming
from svd_core.benchmarks.vs_diffusers.variants import Variant
from svd_core.engine.pipeline_loader import empty_cache

OnTiming = Callable[[str, ClipTiming], None]
"""Called with the contestant's name and its clip."""


@dataclass
class Rounds:
    """`rounds`: clips of each contestant after its first, which warms up. `budget_s`: seconds from
    the start. `failed`: by contestant, the last line of its error."""

    rounds: int
    budget_s: float
    on_shot: OnTiming
    clock: Callable[[], float] = time.monotonic
    shots: dict[str, list[ClipTiming]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._begun = self.clock()
        self._last_s: dict[str, float] = {}

    def play(self, variants: Sequence[Variant], shoot: Callable[[Variant], ClipTiming]) -> None:
        """One warm-up and `rounds` clips of each, in turn."""
        for one in variants:
            self.shots[one.name] = []
        for _ in range(1 + max(1, self.rounds)):
            for one in variants:
                if one.name not in self.failed and self._fits(one.name):
                    self._run(one, shoot)

    def complete(self) -> dict[str, list[ClipTiming]]:
        """The clips of all who made at least one after their warm-up."""
        return {name: made for name, made in self.shots.items() if len(made) > 1}

    def unfinished(self) -> list[str]:
        """Those who had too little time for a clip that counts."""
        return [n for n, made in self.shots.items() if len(made) < 2 and n not in self.failed]

    def sentences(self) -> list[str]:
        failed = [f"{name} failed: {why}" for name, why in self.failed.items()]
        late = [f"{name} had too little time; raise --budget." for name in self.unfinished()]
        return failed + late

    def _fits(self, name: str) -> bool:
        return self.clock() - self._begun + self._last_s.get(name, 0.0) <= self.budget_s

    def _run(self, one: Variant, shoot: Callable[[Variant], ClipTiming]) -> None:
        begin = self.clock()
        try:
            timing = shoot(one)
        except Exception as error:  # noqa: BLE001  # compilers and kernels raise anything
            self.failed[one.name] = last_line(error)
            del self.shots[one.name]
        else:
            self.shots[one.name].append(timing)
            self._last_s[one.name] = self.clock() - begin
            self.on_shot(one.name, timing)
        if one.name in self.failed:  # not before the error is gone, which holds on to its tensors
            gc.collect()
            empty_cache()


def last_line(error: BaseException) -> str:
    """Class and last line of the message, at most 300 characters."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1].strip()}"[:300]
