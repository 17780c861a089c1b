"""Load test of the API: the figures that it computes, and a whole run without a model."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from svd_core.benchmarks.api_load import (
    TARGETS,
    LoadRounds,
    copy_first_job,
    figures,
    overhead_share,
)
from svd_core.benchmarks.load_clients import LoadTiming
from svd_core.benchmarks.targets import missed, p95, table
from svd_core.events import Stopped
from svd_core.jobs import Cancellation
from svd_core.params import VideoParams, VideoRequest
from tests.fakes.work import front_queue, position

ROOT = Path(__file__).parents[2]


def clip(seconds: float, poll: float = 0.01, submit: float = 0.02) -> LoadTiming:
    return LoadTiming(seconds, 2 * seconds, polls=[poll] * 20, submits=[submit])


def test_one_in_twenty_may_be_slower() -> None:
    assert p95([1.0] * 95 + [9.0] * 5) == 1.0
    assert p95([1.0] * 94 + [9.0] * 6) == 9.0
    assert p95([3.0]) == 3.0


def test_what_is_compared_was_measured_in_the_same_round() -> None:
    """A machine that becomes slower slows both sides, and is not a difference between them."""
    pace = (1.0, 2.0, 4.0)
    fresh = LoadRounds(
        [clip(10 * p) for p in pace], [clip(11 * p, 0.01 * p, 0.02 * p) for p in pace]
    )
    aged = LoadRounds(
        [clip(10 * p) for p in pace], [clip(11 * p, 0.012 * p, 0.03 * p) for p in pace]
    )
    found = figures(fresh, aged)
    assert found["submit_p95_ms"] == pytest.approx(40)
    assert found["status_p95_ms"] == pytest.approx(20)
    assert found["slowed_percent"] == pytest.approx(10)
    assert found["past_status_percent"] == pytest.approx(20)
    assert found["past_submit_percent"] == pytest.approx(50)
    assert found["past_clip_percent"] == pytest.approx(0)
    assert (found["clip_s"], found["polls"], found["submits"]) == (20, 120, 6)


def test_what_asking_takes_of_the_machine_does_not_depend_on_how_busy_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    idle = overhead_share(LoadTiming(seconds=10, cpu_s=21), LoadTiming(seconds=9.5, cpu_s=19))
    busy = overhead_share(LoadTiming(seconds=40, cpu_s=27), LoadTiming(seconds=38, cpu_s=19))
    assert idle == busy == pytest.approx(0.1)


def test_each_target_is_told_with_its_verdict() -> None:
    limits = {target.figure: target.limit for target in TARGETS}
    slow = limits | {"status_p95_ms": 50.1}
    lines = table(TARGETS, slow)
    verdicts = [line.split()[-1] for line in lines]
    assert missed(TARGETS, limits) == []
    assert missed(TARGETS, slow) == ["status_p95_ms"]
    assert verdicts == ["missed" if t.figure == "status_p95_ms" else "holds" for t in TARGETS]


def test_a_past_is_made_of_jobs_that_are_over(tmp_path: Path) -> None:
    with front_queue(tmp_path) as queue:
        job = queue.submit(VideoRequest(b"photo", VideoParams(seed=1)))
        assert job.cancel() is Cancellation.REMOVED
        copy_first_job(tmp_path / "jobs.sqlite", 1000)
        with closing(sqlite3.connect(tmp_path / "jobs.sqlite")) as connection:
            (count,) = connection.execute("SELECT count(*) FROM svd_jobs").fetchone()
        assert count == 1001
        assert queue.get(f"{1000:032x}").last == Stopped()
        assert queue.length() == 0
        waits = queue.submit(VideoRequest(b"photo", VideoParams(seed=1)))
        assert position(waits) == 0


@pytest.mark.slow
def test_the_last_line_is_json() -> None:
    few = ["--rounds", "1", "--clients", "3", "--past", "50", "--jobs", "8"]
    done = subprocess.run(
        [sys.executable, "-m", "svd_core.benchmarks", "api", "--still", *few],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
        env=os.environ | {"SVD_API_KEYS": "ann:secret"},  # of the caller, not of the servers
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    found = json.loads(last)
    assert len(lines) == len(TARGETS)
    assert all(line.startswith(target.label) for line, target in zip(lines, TARGETS, strict=True))
    assert (found["model"], found["past"], found["jobs"]) == ("still", 50, 8)
    assert found["polls"] >= 3
    assert found["submits"] >= 1
    assert 0 < found["status_p95_ms"] < 5000
    assert 0 < found["submit_p95_ms"] < 5000
    assert 20 < found["memory_mb"] < 2000
