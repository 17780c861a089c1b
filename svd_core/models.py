"""The table of checkpoints: what each is called, where it comes from, and what it was trained for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"

Size = tuple[int, int]
"""(width, height) in pixels."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """`source`: hub id or local folder. `sizes`: trained first; the rest work with some loss.

    `memory_gb`: GPU memory for its default video, (with model offload, all on the GPU).
    """

    name: str
    source: str
    revision: str = "main"
    sizes: tuple[Size, ...]
    num_frames: int
    num_inference_steps: int
    min_guidance_scale: float
    max_guidance_scale: float
    licence: str
    licence_url: str
    gated: bool = False
    summary: str
