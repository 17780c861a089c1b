"""Results of the GPU benchmark as JSON lines: each is on disk before the next thing begins.

A row has `part`, `case`, `at_s` (seconds since the part began) and its figures. `failed` holds the
error of what went wrong, `skipped` the reason why it was not tried; `ok: false` is a wrong answer.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

FILE = "results.jsonl"


@dataclass(frozen=True)
class Recorder:
    """Appends rows of one part to the results in `folder`."""

    folder: Path
    part: str
    clock: Callable[[], float] = time.monotonic
    _begun: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._begun.append(self.clock())

    def write(self, case: str, **found: object) -> None:
        at_s = round(self.clock() - self._begun[0], 2)
        line = json.dumps({"part": self.part, "case": case, "at_s": at_s, **found}, default=str)
        with (self.folder / FILE).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(line, flush=True)


def size(folder: Path) -> int:
    """Bytes of results so far; where later rows begin."""
    path = folder / FILE
    return path.stat().st_size if path.exists() else 0


def read(folder: Path, start: int = 0) -> list[Row]:
    """The rows behind byte `start`. A line that was cut off when its process ended is left out."""
    path = folder / FILE
    if not path.exists():
        return []
    rows: list[Row] = []
    for line in path.read_bytes()[start:].splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"part", "case"} <= set(row):
            rows.append(row)
    return rows


def is_failure(row: Row) -> bool:
    return bool(row.get("failed")) or row.get("ok") is False or row.get("finite") is False


def failures(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if is_failure(row)]
