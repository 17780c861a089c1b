"""GPU workers on real Ray nodes, which are killed, frozen and replaced.

The nodes have loopback addresses. Each is a process session that ends like a machine, and its GPU
is pretended. The tests run in this order, since each takes the nodes as the one before left them.
"""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svd_core.benchmarks.cluster.nodes import die_with_parent
from svd_core.checkpoints.table import ASSETS
from svd_core.cluster.config import ClusterConfig
from svd_core.errors import InvalidImage, ModelGated
from svd_core.events import Failed, Progress, Succeeded
from svd_core.jobs import QueueContext, WorkerQueue
from svd_core.jobs.interface import ExecutorLost
from svd_core.jobs.schema import State
from svd_core.media.recipe import Recipe
from svd_core.media.video import read_lossless
from svd_core.messages import Message
from svd_core.params import VideoParams, VideoRequest
from tests.fakes.cluster_site import OWN, SECONDS, Crew, Running, Site
from tests.fakes.errors import has_code
from tests.fakes.job_events import ending, eventually
from tests.fakes.work import front_queue, open_table

pytestmark = pytest.mark.cluster

FIRST, SECOND, THIRD = (f"127.0.0.{n}" for n in (3, 4, 5))
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    try:
        site.start_head()
        site.start(OWN, FIRST, SECOND)
        yield site
    finally:
        site.cluster.close()


def test_a_head_that_is_away_is_reported_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    from svd_core.cluster.pool import WorkerPool
    from svd_core.cluster.worker import WorkerSettings

    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        config = ClusterConfig(f"127.0.0.1:{taken.getsockname()[1]}")
        with closing(WorkerPool(config, WorkerSettings()).start()) as pool:
            eventually(lambda: "does not respond" in caplog.text, SECONDS)
            eventually(lambda: pool.status.notice == Message("cluster_unreachable"), SECONDS)
            assert pool.status.waits_for_machine
    assert caplog.text.count("does not respond") == 1, "it is said once"


def test_jobs_run_at_the_same_time_and_one_is_continued_on_another_machine(
    site: Site, tmp_path: Path
) -> None:
    mkv = 20_000_000  # several chunks
    with site.pool() as pool:
        crew = Crew(pool, tmp_path)
        first = crew.start("first", steps=3, preview=100_000, mkv=mkv)
        crew.check(first, "first", mkv)
        assert [event.step for event in first.events if isinstance(event, Progress)] == [1, 2, 3]
        assert len(first.events[1].preview) == 100_000  # type: ignore[union-attr,arg-type]
        held = crew.hold("held")
        assert held.place == first.place, "an idle worker is used before another is started"
        longer = crew.start("longer", continues="first", previous_mkv=mkv)
        crew.check(longer, "longer")
        assert longer.place[0] != held.place[0]
        assert pool.status.device == "2 x Pretended GPU, 1 GB"
        gone = crew.start("gone", continues="no-such-job", previous_mkv=0).join()
        assert isinstance(gone.last, Failed), "its video is not there"
        crew.release((held, "held"))


def test_cancelling_frees_the_gpu_and_an_error_is_the_jobs_own(site: Site, tmp_path: Path) -> None:
    with site.pool(most=1, idle_s=0.5) as pool:
        crew = Crew(pool, tmp_path)
        job = crew.start("stopped", steps=1000, step_s=0.05)
        eventually(lambda: len(job.events) > 3, SECONDS)
        job.stop()
        assert isinstance(job.last, Progress)
        quiet = crew.start("quiet", quiet=str(crew.go))
        assert quiet.place == job.place, "there is no other GPU for it"
        quiet.stop()  # at once, although the step that is under way has not ended
        assert isinstance(quiet.last, Progress)
        crew.go.touch()
        bad = crew.start("bad", error="image").join()
        assert bad.place == job.place, "there is no other GPU for it"
        assert isinstance(bad.last, Failed)
        assert isinstance(bad.last.error, InvalidImage)
        assert list(crew.store.folder.iterdir()) == []
        eventually(lambda: pool.status.waits_for_machine, SECONDS)  # the GPU is given back


def test_a_worker_with_other_code_gets_no_job(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with site.pool(release="another release") as pool:
        executor = Crew(pool, tmp_path).executor()
        assert not executor.prepare(lambda: caplog.text.count("another release") < 2)
        assert pool.status.notice is not None
        assert "another release" in pool.status.notice
        with pytest.raises(ExecutorLost) as lost:
            next(executor.run("job", VideoRequest(b"{}", VideoParams())))
        assert not lost.value.counted


def test_a_checkpoint_that_no_machine_has_fails_a_job(site: Site, tmp_path: Path) -> None:
    from tests.fakes.cluster_work import GATED, open_work_without

    (tmp_path / "without").write_text(f"{FIRST} {SECOND}")
    with site.pool(open_work=open_work_without(tmp_path / "without")) as pool:
        crew = Crew(pool, tmp_path)
        with pytest.raises(ModelGated) as error:
            crew.start("job")
        assert has_code("model_licence_required", model=GATED)(error.value)
        (tmp_path / "without").write_text("")  # then the licence is accepted
        crew.check(crew.start("job"), "job")


def test_the_queue_runs_a_job_again_whose_worker_died(site: Site, tmp_path: Path) -> None:
    die = {"die": str(tmp_path / "died")}
    with site.pool(most=2) as pool, open_table(tmp_path) as table:
        crew = Crew(pool, tmp_path)
        broken = crew.start("broken", error="device")  # a GPU that only a new process can use
        broken.check_lost(counted=True)
        context = QueueContext(table)
        with closing(WorkerQueue([crew.executor(), crew.executor()], context).start()) as queue:
            jobs = [
                queue.submit(VideoRequest(json.dumps(spec).encode(), VideoParams(seed=1)))
                for spec in (die, {}, {}, {"error": "image"}, {})
            ]
            outcomes = [ending(job) for job in jobs]
        rows = {row.id: row for row in table.get_many([job.id for job in jobs])}
    assert [type(outcome) for outcome in outcomes] == [
        Succeeded, Succeeded, Succeeded, Failed, Succeeded
    ]  # fmt: skip
    assert [rows[job.id].attempt for job in jobs] == [2, 1, 1, 1, 1]
    videos = {path.stem for path in crew.store.folder.glob("*.mp4")}
    assert videos == {job.id for job in jobs} - {jobs[3].id}


def test_a_killed_server_frees_the_gpus_and_its_jobs_run_after_the_restart(
    site: Site, tmp_path: Path
) -> None:
    held = json.dumps({"hold": str(tmp_path / "go")}).encode()
    with front_queue(tmp_path) as queue:
        ids = [queue.submit(VideoRequest(photo, VideoParams(seed=1))).id
               for photo in (held, held, b"{}")]  # fmt: skip
    server = [sys.executable, "-m", "svd_core.benchmarks.cluster.bench", str(tmp_path)]
    server += [site.cluster.address, OWN, "2", "tests.fakes.cluster_work:open_work"]
    with open_table(tmp_path) as table:
        with subprocess.Popen(server, cwd=ROOT, preexec_fn=die_with_parent) as killed:
            try:
                eventually(lambda: _states(table) == ["running", "running", "waiting"], SECONDS)
            finally:
                killed.kill()
        (tmp_path / "go").touch()
        subprocess.run(server, cwd=ROOT, check=True, timeout=SECONDS)
        rows = {row.id: row for row in table.get_many(ids)}
    assert [rows[job_id].attempt for job_id in ids] == [2, 2, 1]
    assert all(isinstance(row.record[-1].event, Succeeded) for row in rows.values())
    assert rows[ids[2]].started >= rows[ids[0]].started  # type: ignore[operator]
    assert {path.stem for path in (tmp_path / "results").glob("*.mp4")} == set(ids)


def _states(table: Any) -> list[State]:
    return sorted(summary.state for summary in table.open_jobs())


@pytest.mark.slow
def test_svd_nano_makes_the_same_video_on_two_machines(site: Site, tmp_path: Path) -> None:
    from svd_core.cluster.worker import open_engine

    photo = min((ASSETS / "examples").glob("*.jpg")).read_bytes()
    with site.pool(least=2, open_work=open_engine) as pool:
        eventually(lambda: len(pool.status.device) and pool.status.workers == 2, SECONDS)
        crew, params = Crew(pool, tmp_path), VideoParams(seed=3, num_frames=3)
        jobs = {job_id: crew.submit(job_id, photo, params) for job_id in ("one", "two")}
        for job_id, job in jobs.items():
            crew.check(job, job_id, mkv=1)
        one, two = (read_lossless(crew.store.frames_path(job_id)) for job_id in jobs)
        assert np.array_equal(one, two)
        assert len(one) == 3
        assert Recipe.read(crew.store.path("one")).model == "svd-nano"
        assert pool.status.checkpoint.name == "svd-nano"


def test_a_machine_without_the_checkpoint_is_passed_over_and_one_that_joins_is_used(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.fakes.cluster_work import open_work_without

    (tmp_path / "without").write_text(SECOND)
    with site.pool(least=2, open_work=open_work_without(tmp_path / "without")) as pool:
        eventually(lambda: pool.status.workers == 1 and "licence" in caplog.text, SECONDS)
        crew = Crew(pool, tmp_path)
        held = crew.hold("held")
        assert held.place[0] == FIRST
        executor = crew.executor()
        waiting = threading.Thread(target=executor.prepare, args=(lambda: True,), daemon=True)
        waiting.start()
        site.start(THIRD, RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="1")
        waiting.join(SECONDS)
        photo = json.dumps({"steps": 9999, "step_s": 0.05}).encode()
        third = Running(executor, "third", VideoRequest(photo, VideoParams()))
        assert third.place[0] == THIRD
        site.nodes[THIRD].process.send_signal(signal.SIGTERM)  # as `docker stop` does
        third.check_lost(counted=False)  # the machine was taken away, it did not crash
        crew.release((held, "held"))


def test_jobs_of_dead_and_of_silent_machines_run_again(site: Site, tmp_path: Path) -> None:
    with site.pool() as pool:
        crew = Crew(pool, tmp_path)
        jobs = {job.place[0]: job for job in (crew.hold("a"), crew.hold("b"))}
        assert set(jobs) == {FIRST, SECOND}
        site.nodes[SECOND].signal(signal.SIGSTOP)
        site.nodes[FIRST].kill()
        jobs[FIRST].check_lost(counted=True)
        site.start(FIRST)
        again = crew.start("a")
        assert again.place[0] == FIRST
        crew.check(again, "a")
        jobs[SECOND].check_lost(counted=True)
        crew.check(crew.start("b"), "b")
        assert sorted(path.name for path in crew.store.folder.iterdir()) == ["a.mp4", "b.mp4"]
    site.nodes[SECOND].kill()


def test_the_server_joins_again_after_its_own_node_died(site: Site, tmp_path: Path) -> None:
    with site.pool() as pool:
        crew = Crew(pool, tmp_path)
        job = crew.hold("job")
        assert job.place[0] == FIRST
        site.nodes[OWN].kill()
        site.start(OWN)
        job.join()
        assert job.lost is not None
        crew.check(crew.start("job"), "job")


@pytest.mark.slow
def test_the_server_outlives_the_head(site: Site, tmp_path: Path) -> None:
    with site.pool() as pool:
        crew = Crew(pool, tmp_path)
        job = crew.hold("job")
        worked_at, _ = job.place
        site.head.kill()
        crew.release((job, "job"))  # it goes on without a head
        for ip in (OWN, worked_at):  # they end by themselves, and their supervisors start them
            site.nodes[ip].kill()
        site.start_head()
        eventually(lambda: pool.status.notice is not None, SECONDS)
        site.start(OWN, worked_at)
        crew.check(crew.start("after"), "after")
        assert pool.status.notice is None
