"""All measurements of a GPU in one call: `python -m svd_core.benchmarks gpu`.

Each part runs in its own process with a time limit. A part that fails, hangs or is killed does not
affect the others. `results.jsonl` in `--out` has every figure as soon as it is known;
`summary.txt`, `profile.txt` and `log.txt` are written beside it. Weights are random: times are
real, pictures are not. Ends in one line of JSON. Exit code 1: something failed.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from svd_core.benchmarks.gpu.parts import (
    LOST_CONTEXT,
    PARTS,
    UNUSABLE,
    Part,
    run_part,
    select_parts,
    time_limit,
)
from svd_core.benchmarks.gpu.results import (
    FILE,
    Recorder,
    failures,
    format_row,
    format_table,
    read_rows,
    results_size,
)
from svd_core.checkpoints.table import ASSETS

CHECKPOINT_BYTES = 8e9
"""Free bytes of a file system in memory that may hold a checkpoint of 4.5 GB."""

Start = Callable[[Part, float], "ProcessEnd"]
"""Runs a part for at most the given seconds."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m svd_core.benchmarks gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{part.name:8} {part.about}" for part in PARTS),
    )
    out = Path(os.environ.get("OUT") or "out")
    parser.add_argument("--out", type=Path, default=out, help="folder for the results")
    parser.add_argument("--budget", type=float, default=565.0, help="seconds for all parts")
    parser.add_argument("--only", default="", help="parts to run, comma separated")
    parser.add_argument("--skip", default="", help="parts to leave out, comma separated")
    parser.add_argument("--tiny", action="store_true", help="small shapes, on a CPU too")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.part:
        return run_part(options.part, options.out, options.scratch, options.limit, options.tiny)
    parts = select_parts(options.only, options.skip)
    out = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with _scratch() as scratch, exit_on_sigterm():
        start = partial(start_part, out, Path(scratch), options.tiny)
        return run(parts, out, options.budget, start, limited=not options.tiny)


def run(
    parts: Sequence[Part],
    out: Path,
    budget_s: float,
    start: Start,
    limited: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Run `parts` one after another within the budget, then print the table.

    `limited`: by the limits of the parts as well. Returns 1 if something failed.
    """
    begun, first = clock(), results_size(out)
    recorder = Recorder(out, "run", clock)
    for part in parts:
        remaining = budget_s - (clock() - begun)
        limit_s = time_limit(part, remaining, limited)
        if limit_s is None:
            recorder.write(part.name, skipped=f"{remaining:.0f} s of the budget are left")
            continue
        print(f"\n{part.name}: {part.about} (at most {limit_s:.0f} s)", flush=True)
        before = results_size(out)
        end = start(part, limit_s)
        part_rows = read_rows(out, before)
        for row in part_rows:
            print(format_row(row), flush=True)
        finished = any(row["case"] == "end" for row in part_rows)
        sentence = end.sentence() or ("" if finished else "It did not finish.")
        # A library may crash while Python shuts down; by then all figures are written.
        key = "note" if finished else "failed"
        recorder.write(part.name, seconds=end.seconds, **({key: sentence} if sentence else {}))
        if end.code == UNUSABLE:
            print("No part can run here, so the others were left out.", flush=True)
            break
    rows = read_rows(out, first)
    text = format_table(rows)
    (out / "summary.txt").write_text(text + "\n", encoding="utf-8")
    print(text)
    count = len(failures(rows))
    took = round(clock() - begun, 1)
    print(json.dumps({"failures": count, "seconds": took, "results": str(out / FILE)}))
    return 1 if count else 0


def start_part(out: Path, scratch: Path, tiny: bool, part: Part, limit_s: float) -> "ProcessEnd":
    """Run `part` in its own process."""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
    }
    command = [
        sys.executable, "-m", "svd_core.benchmarks", "gpu", "--part", part.name,
        "--out", str(out), "--scratch", str(scratch), "--limit", f"{limit_s:.1f}",
        *(["--tiny"] if tiny else []),
    ]  # fmt: skip
    return run_process(command, limit_s, out / "log.txt", environment, ASSETS.parent)


def _scratch() -> "tempfile.TemporaryDirectory[str]":
    """A folder for checkpoints and compiled code, in memory where that is large enough."""
    memory = Path("/dev/shm")  # noqa: S108  # Linux's file system in memory
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > CHECKPOINT_BYTES
    place = memory if roomy else None
    return tempfile.TemporaryDirectory(prefix="svd-bench-", dir=place, ignore_cleanup_errors=True)


# Process of a part


@dataclass(frozen=True)
class ProcessEnd:
    """How a process ended. `code`: of `subprocess`, negative for a signal; None after a timeout."""

    code: int | None
    seconds: float
    limit_s: float

    def sentence(self) -> str:
        """Description of the failure; empty for exit code 0."""
        if self.code is None:
            return f"It was stopped at its time limit of {self.limit_s:.0f} s."
        if self.code < 0:
            name = signal.Signals(-self.code).name
            memory = " The machine may have run out of memory." if name == "SIGKILL" else ""
            return f"It was killed by {name}.{memory}"
        if self.code == LOST_CONTEXT:
            return "The CUDA context was lost, so the rest of the part was left out."
        return f"It ended with exit code {self.code}." if self.code else ""


@contextmanager
def handle_sigterm(handler: Callable[[int, object], object]) -> Iterator[None]:
    """Handle SIGTERM by `handler` inside the block. For the main thread."""
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_on_sigterm() -> AbstractContextManager[None]:
    """Let SIGTERM, which `timeout` sends, raise `SystemExit`, so that the child ends too."""
    return handle_sigterm(lambda *_: sys.exit(128 + signal.SIGTERM))


@contextmanager
def defer_sigterm() -> Iterator[None]:
    """Deliver a SIGTERM that arrives in the block at its end.

    A handler that raises inside `Popen` would leave the caller without the process.
    """
    arrived: list[int] = []
    with handle_sigterm(lambda number, _: arrived.append(number)):
        yield
    if arrived:
        signal.raise_signal(signal.SIGTERM)


def run_process(
    command: Sequence[str], limit_s: float, log: Path, environment: Mapping[str, str], folder: Path
) -> ProcessEnd:
    """Run `command` in `folder` for at most `limit_s`; its output is appended to `log`.

    Its process group is killed at the end, so that no child process stays on the GPU.
    """
    begun = time.monotonic()
    process: subprocess.Popen[bytes] | None = None
    code: int | None = None
    with log.open("ab") as file:
        try:
            with defer_sigterm():
                process = subprocess.Popen(  # noqa: S603  # this very program
                    command, cwd=folder, env=dict(environment), process_group=0,
                    stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                )  # fmt: skip
            code = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            pass
        finally:  # after SIGTERM and Ctrl-C too
            if process is not None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return ProcessEnd(code, round(time.monotonic() - begun, 1), limit_s)
