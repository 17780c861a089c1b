"""The parts of the GPU benchmark by priority, and the seconds each may take of a budget."""

from collections.abc import Sequence
from dataclasses import dataclass

from svd_core.errors import InvalidSettings


@dataclass(frozen=True)
class Part:
    """`name`: also of its module. `limit_s`: time limit. `least_s`: with less it is dropped."""

    name: str
    limit_s: float
    least_s: float
    about: str


PARTS = (
    Part("env", 60, 10, "machine, versions, peak rates, whether diffusers is the tested one"),
    Part("smoke", 90, 25, "a tiny model under every offload setting, compared with the CPU"),
    Part("clip", 125, 45, "whole clips through the engine: speeds, previews, offload"),
    Part("step", 115, 40, "one UNet step of SVD-XT: stock, ours, ours with one thing changed"),
    Part("decode", 85, 30, "decoding 25 frames: stock, ours, slices, layouts"),
    Part("plans", 110, 40, "memory plans held to the free memory of smaller cards"),
    Part("kernels", 80, 25, "attention, norms, convolutions and products at SVD-XT's shapes"),
    Part("compile", 160, 60, "UNet and decoder compiled: seconds to compile, seconds a step"),
    Part("contest", 120, 50, "stock diffusers against ours: python -m svd_core.benchmarks contest"),
)
"""In the order of priority, in which they run."""

MARGIN_S = 6.0
"""Of a budget, kept for ending the last process and for the table."""


def selected(only: str, skip: str) -> list[Part]:
    """The parts of `only`, or all, without those of `skip`; both are comma separated names.

    Raises `InvalidSettings` for an unknown name.
    """
    wanted, unwanted = _names(only), _names(skip)
    known = {part.name for part in PARTS}
    unknown = sorted({*wanted, *unwanted} - known)
    if unknown:
        names = ", ".join(part.name for part in PARTS)
        raise InvalidSettings(f"There is no part {', '.join(unknown)}; choose from {names}.")
    return [p for p in PARTS if (not wanted or p.name in wanted) and p.name not in unwanted]


def allotted(part: Part, remaining_s: float, limited: bool = True) -> float | None:
    """Seconds that `part` may take of the remaining ones; None: too few are left for it.

    `limited`: by its own limit as well, which is made for a GPU.
    """
    usable = remaining_s - MARGIN_S
    if usable < part.least_s:
        return None
    return min(part.limit_s, usable) if limited else usable


def _names(text: str) -> Sequence[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
