"""Fingerprint of checkpoint weights: source and state, as a recipe keeps them."""

import hashlib
from pathlib import Path
from typing import Protocol

EDGE_BYTES = 2**16
"""Bytes at each end of a file of weights that the fingerprint reads."""


class Weights(Protocol):
    """What a recipe keeps of a checkpoint; `table.Checkpoint` is one."""

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def folder(self) -> Path | None: ...


def checkpoint_identity(checkpoint: Weights) -> tuple[str, str, str]:
    """Source, revision, fingerprint. Of a folder only the name is told: its path is private."""
    folder = checkpoint.folder
    if folder is None:
        return checkpoint.source, checkpoint.revision, ""
    return folder.name, "", fingerprint(folder)


def fingerprint(place: Path) -> str:
    """Short hash of the weights in a folder and how they are wired, or of one file of weights: 16
    hexadecimal digits.

    Of each file of weights its name, its size and both ends are hashed, not the gigabytes between:
    training moves all of them, and this takes milliseconds.
    """
    found = hashlib.sha256()
    folder = place.parent if place.is_file() else place
    inside = (p for p in place.rglob("*") if p.suffix in (".safetensors", ".json"))
    for path in [place] if place.is_file() else sorted(inside):
        with path.open("rb") as file:
            size = path.stat().st_size
            found.update(f"{path.relative_to(folder).as_posix()} {size} ".encode())
            found.update(file.read(EDGE_BYTES))
            file.seek(max(0, size - EDGE_BYTES))
            found.update(file.read(EDGE_BYTES))
    return found.hexdigest()[:16]
