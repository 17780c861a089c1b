"""Results of the GPU benchmark: rows of JSON lines, and the table at the end.

Each row is on disk before the next case begins. A row has `part`, `case`, `at_s` (seconds since the
part began) and its figures. `failed` holds an error, `skipped` the reason why a case did not run;
`ok: false` marks a wrong result. The table shows failures first, then seconds, memory and errors.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

FILE = "results.jsonl"


class Recorder:
    """Appends rows of one part to the results in `folder`."""

    def __init__(
        self, folder: Path, part: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._part, self._clock, self._begun = folder / FILE, part, clock, clock()

    def write(self, case: str, **figures: object) -> None:
        """Append a row, which is on disk when this returns."""
        at_s = round(self._clock() - self._begun, 2)
        line = json.dumps({"part": self._part, "case": case, "at_s": at_s, **figures}, default=str)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(line, flush=True)


def results_size(folder: Path) -> int:
    """Bytes of the results so far, where later rows begin."""
    path = folder / FILE
    return path.stat().st_size if path.exists() else 0


def read_rows(folder: Path, start: int = 0) -> list[Row]:
    """Read the rows from byte `start` on. A line that was cut off by a kill is left out."""
    path = folder / FILE
    rows: list[Row] = []
    for line in path.read_bytes()[start:].splitlines() if path.exists() else ():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def is_failure(row: Row) -> bool:
    """Whether a row has an error, a wrong answer or values that are not finite."""
    return bool(row.get("failed")) or row.get("ok") is False or row.get("finite") is False


def failures(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if is_failure(row)]


ROW_KEYS = ("part", "case", "at_s", "where")
"""Keys of a row that do not hold figures."""

BASELINES = {"step": ("stock",), "decode": ("stock, all at once",), "contest": ("stock, median",),
         "compile": ("UNet, not compiled", "decoder, not compiled")}  # fmt: skip
"""Cases of a part that the later cases are compared with."""

MOST_FAILURES = 20


def format_row(row: Row) -> str:
    """Format a row as one line of at most 200 characters."""
    figures = {name: value for name, value in row.items() if name not in ROW_KEYS}
    return f"  {row['case'][:44]:44} {json.dumps(figures, default=str)}"[:200]


def format_table(rows: Sequence[Row]) -> str:
    """Format the rows of all parts as the summary."""
    failed = failures(rows)
    lines = ["", _machine(rows), f"failures: {len(failed)}"]
    lines += [_failure(row) for row in failed[:MOST_FAILURES]]
    if len(failed) > MOST_FAILURES:
        lines.append(f"  and {len(failed) - MOST_FAILURES} more")
    for title, shown in (
        ("seconds, times as fast, peak GiB, error", _timed(rows)),
        ("plans: expected and measured GB", _plans(rows)),
        ("parts", _parts(rows)),
    ):
        body = list(shown)
        lines += ["", title, *body] if body else []
    return "\n".join(lines)


def _machine(rows: Iterable[Row]) -> str:
    machine = next((row for row in rows if row["case"] == "machine"), {})
    versions = [
        f"{name} {machine[name]}"
        for name in ("gpu", "torch", "cudnn", "triton", "diffusers")
        if machine.get(name)
    ]
    busy = " (other programs use this GPU; times are not reliable)" if machine.get("busy") else ""
    return ", ".join(versions) + busy if versions else "no machine recorded (part env)"


def _failure(row: Row) -> str:
    reason = row.get("failed") or {
        name: value for name, value in row.items() if name not in (*ROW_KEYS, "ok")
    }
    return f"  ! {row['part']}: {row['case']}: {reason}"[:220]


def _timed(rows: Sequence[Row]) -> Iterator[str]:
    bases: dict[str, float] = {}
    for row in rows:
        if "seconds" not in row or row["part"] in ("run", "plans"):
            continue
        if row["case"] in BASELINES.get(row["part"], ()):
            bases[row["part"]] = row["seconds"]
        base = bases.get(row["part"])
        faster = f"{base / row['seconds']:5.2f}x" if base and row["seconds"] else " " * 6
        peak, error = ("" if row.get(name) is None else row[name] for name in ("peak_gib", "error"))
        yield (
            f"{row['part']:8} {row['case'][:46]:46} {row['seconds']:9.4f} {faster}"
            f" {peak!s:>6} {error!s:>10}"
        )


def _plans(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        if row["part"] == "plans" and "plan" in row:
            full = " MEMORY RAN OUT" if row.get("ran_out") else ""
            yield (
                f"{row['case'][:26]:26} {row['plan'][:56]:56} {row['expected_gb']:6.2f}"
                f" {row['peak_gb']:6.2f} {row['seconds']:7.2f} s{full}"
            )


def _parts(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        if row["part"] == "run":
            skipped = f"left out: {row['skipped']}" if "skipped" in row else ""
            remark = skipped or row.get("failed") or row.get("note") or ""
            seconds = f"{row['seconds']:7.1f} s" if "seconds" in row else " " * 9
            yield f"{row['case']:10} {seconds} {remark}".rstrip()
