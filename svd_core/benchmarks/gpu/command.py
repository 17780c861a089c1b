"""Everything to be learnt from a GPU in one call: `python -m svd_core.benchmarks gpu`.

Each part is a process of its own with a time limit, so that one that fails, hangs or is killed
costs the others nothing. `results.jsonl` in `--out` has every figure as soon as it is known;
`summary.txt`, `profile.txt` and `log.txt` lie beside it. Weights are random: times are real,
pictures are not. Ends in one line of JSON. Exit code 1: something failed.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from svd_core.benchmarks.gpu.parts import PARTS, Part, allotted, selected
from svd_core.benchmarks.gpu.report import line, table
from svd_core.benchmarks.gpu.results import FILE, Recorder, failures, read, size
from svd_core.benchmarks.gpu.supervisor import (
    UNUSABLE,
    Ended,
    ending_on_sigterm,
    supervise,
)
from svd_core.errors import SvdError

ROOT = Path(__file__).resolve().parents[3]

CHECKPOINT_BYTES = 8e9
"""Free bytes of a file system in memory that may hold a checkpoint of 4.5 GB."""

Start = Callable[[Part, float], Ended]
"""Runs a part for at most so many seconds."""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m svd_core.benchmarks gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{part.name:8} {part.about}" for part in PARTS),
    )
    out = Path(os.environ.get("OUT") or "out")
    found.add_argument("--out", type=Path, default=out, help="folder for the results")
    found.add_argument("--budget", type=float, default=565.0, help="seconds for all parts together")
    found.add_argument("--only", default="", help="parts to run, comma separated")
    found.add_argument("--skip", default="", help="parts to leave out, comma separated")
    found.add_argument("--tiny", action="store_true", help="small shapes, on a CPU too")
    found.add_argument("--part", help=argparse.SUPPRESS)
    found.add_argument("--limit", type=float, help=argparse.SUPPRESS)
    found.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    asked = parser().parse_args(argv)
    if asked.part:
        from svd_core.benchmarks.gpu.worker import work  # brings torch, which the parts alone need

        return work(asked.part, asked.out, asked.scratch, asked.limit, asked.tiny)
    try:
        parts = selected(asked.only, asked.skip)
    except SvdError as error:
        print(error.message, file=sys.stderr)
        return 2
    out = asked.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    scratch = _scratch()
    start = _starting(out, scratch, asked.tiny)
    try:
        with ending_on_sigterm():
            return run(parts, out, asked.budget, start, limited=not asked.tiny)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def run(
    parts: Sequence[Part],
    out: Path,
    budget_s: float,
    start: Start,
    limited: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Start `parts` one after another within the budget, then print the table.

    `limited`: by their own limits as well. Returns 1 if something failed.
    """
    begun, first = clock(), size(out)
    recorder = Recorder(out, "run", clock)
    for part in parts:
        remaining = budget_s - (clock() - begun)
        limit_s = allotted(part, remaining, limited)
        if limit_s is None:
            recorder.write(part.name, skipped=f"{remaining:.0f} s of the budget are left")
            continue
        print(f"\n{part.name}: {part.about} (at most {limit_s:.0f} s)", flush=True)
        before = size(out)
        ended = start(part, limit_s)
        rows = read(out, before)
        for row in rows:
            print(line(row), flush=True)
        finished = any(row["case"] == "end" for row in rows)
        sentence = ended.sentence() or ("" if finished else "It did not finish.")
        # A library may crash while Python shuts down; by then all figures are written.
        key = "note" if finished else "failed"
        recorder.write(part.name, seconds=ended.seconds, **({key: sentence} if sentence else {}))
        if ended.code == UNUSABLE:
            print("No part can run here, so the others were left out.", flush=True)
            break
    found = read(out, first)
    text = table(found)
    (out / "summary.txt").write_text(text + "\n", encoding="utf-8")
    print(text)
    count = len(failures(found))
    took = round(clock() - begun, 1)
    print(json.dumps({"failures": count, "seconds": took, "results": str(out / FILE)}))
    return 1 if count else 0


def _starting(out: Path, scratch: Path, tiny: bool) -> Start:
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
    }

    def start(part: Part, limit_s: float) -> Ended:
        command = [
            sys.executable, "-m", "svd_core.benchmarks", "gpu", "--part", part.name,
            "--out", str(out), "--scratch", str(scratch), "--limit", f"{limit_s:.1f}",
            *(["--tiny"] if tiny else []),
        ]  # fmt: skip
        return supervise(command, limit_s, out / "log.txt", environment, ROOT)

    return start


def _scratch() -> Path:
    """A folder for checkpoints and compiled code, in memory where that is large enough."""
    memory = Path("/dev/shm")  # noqa: S108  # Linux's file system in memory
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > CHECKPOINT_BYTES
    return Path(tempfile.mkdtemp(prefix="svd-bench-", dir=memory if roomy else None))
