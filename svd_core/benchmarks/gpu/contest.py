"""Part contest: `python -m svd_core.benchmarks contest` on random weights; every clip is a row."""

import json
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

from svd_core.benchmarks.gpu.context import Context, Figures
from svd_core.benchmarks.vs_diffusers import contest
from svd_core.benchmarks.vs_diffusers.timing import ClipTiming

TINY = ["--model", "tiny", "--frames", "2", "--steps", "1", "--rounds", "1"]
FULL = ["--model", "svd-xt", "--random-weights", "--steps", "6", "--rounds", "2"]

VERDICT_S = 10.0
"""Of the time that remains, for the comparison behind the last clip."""


def run(context: Context) -> None:
    context.case("contest", lambda: run_contest(context))


def run_contest(context: Context) -> Figures:
    """Raises `RuntimeError` with the contest's last sentence where there is no table."""
    count: dict[str, int] = {}

    def on_shot(name: str, shot: ClipTiming) -> None:
        count[name] = count.get(name, 0) + 1
        context.recorder.write(f"{name}, clip {count[name]}", **shot.figures())

    budget = max(0.0, context.remaining_s() - VERDICT_S)
    command = [*(TINY if context.tiny else FULL), "--no-compile", "--budget", f"{budget:.0f}"]
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = contest.main(command, on_shot)
    print(out.getvalue(), err.getvalue())
    lines = [line for line in out.getvalue().splitlines() if line.startswith("{")]
    if not lines:
        said = err.getvalue().strip().splitlines() or ["It ended without a word."]
        raise RuntimeError(said[-1])
    found: dict[str, Any] = json.loads(lines[-1])
    for name, row in found.pop("contestants").items():
        context.recorder.write(f"{name}, median", **row)
    found["contestants_failed"] = found.pop("failed")
    return found | {"ok": code == 0}
