"""A part's process under a time limit, and in words how it ended.

The process has a process group of its own, which is killed when it ends or its time is over, so
that nothing it started stays on the GPU.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

LOST_CONTEXT, UNUSABLE = 3, 4
"""Exit codes of a part: the CUDA context was lost; no part can run on this machine."""


@dataclass(frozen=True)
class Ended:
    """`code`: as `subprocess` has it, negative for a signal; None where the time was over."""

    code: int | None
    seconds: float
    limit_s: float

    def sentence(self) -> str:
        """What went wrong; empty for a process that ended by itself with 0."""
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
def ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM, which `timeout` sends, raise `SystemExit`, so that the process that is
    supervised ends as well. For the main thread."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def holding_back_sigterm() -> Iterator[None]:
    """Deliver a SIGTERM that arrives in the block at its end: `Popen` has no process to
    return yet when a handler raises inside of it. For the main thread."""
    arrived: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    if arrived:
        signal.raise_signal(signal.SIGTERM)


def supervise(
    command: Sequence[str], limit_s: float, log: Path, environment: Mapping[str, str], folder: Path
) -> Ended:
    """Run `command` in `folder` for at most `limit_s`; its output is appended to `log`."""
    begun = time.monotonic()
    process: subprocess.Popen[bytes] | None = None
    code: int | None = None
    with log.open("ab") as file:
        try:
            with holding_back_sigterm():
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
    return Ended(code, round(time.monotonic() - begun, 1), limit_s)
