"""The results of the GPU benchmark as a table: failures first, then seconds, memory and errors."""

import json
from collections.abc import Iterable, Iterator, Sequence

from svd_core.benchmarks.gpu.results import Row, failures

PLAIN = ("part", "case", "at_s", "where")
"""Keys that a line of figures does not repeat."""

BASES = {"step": ("stock",), "decode": ("stock, all at once",), "contest": ("stock, median",),
         "compile": ("UNet, not compiled", "decoder, not compiled")}  # fmt: skip
"""The cases of a part that those behind them are compared with."""

MOST_FAILURES = 20


def line(row: Row, width: int = 200) -> str:
    """One row in one line, cut to `width`."""
    figures = {name: value for name, value in row.items() if name not in PLAIN}
    return f"  {row['case'][:44]:44} {json.dumps(figures, default=str)}"[:width]


def table(rows: Sequence[Row]) -> str:
    found = failures(rows)
    lines = ["", _machine(rows), f"failures: {len(found)}"]
    lines += [_failure(row) for row in found[:MOST_FAILURES]]
    if len(found) > MOST_FAILURES:
        lines.append(f"  and {len(found) - MOST_FAILURES} more")
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
    told = [
        f"{name} {machine[name]}"
        for name in ("gpu", "torch", "cudnn", "triton", "diffusers")
        if machine.get(name)
    ]
    busy = " (other programs use this GPU; times are not reliable)" if machine.get("busy") else ""
    return ", ".join(told) + busy if told else "no machine recorded (part env)"


def _failure(row: Row) -> str:
    told = row.get("failed") or {
        name: value for name, value in row.items() if name not in (*PLAIN, "ok")
    }
    return f"  ! {row['part']}: {row['case']}: {told}"[:220]


def _timed(rows: Sequence[Row]) -> Iterator[str]:
    bases: dict[str, float] = {}
    for row in rows:
        if "seconds" not in row or row["part"] in ("run", "plans"):
            continue
        if row["case"] in BASES.get(row["part"], ()):
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
            told = row.get("failed") or row.get("note") or ""
            if "skipped" in row:
                told = f"left out: {row['skipped']}"
            seconds = f"{row['seconds']:7.1f} s" if "seconds" in row else " " * 9
            yield f"{row['case']:10} {seconds} {told}".rstrip()
