"""How many workers are started and given back, and what follows when none can start."""

import pytest

from svd_core.cluster import scaling
from svd_core.cluster.config import ClusterConfig
from svd_core.cluster.handle import State, WorkerHandle
from svd_core.cluster.placement import BACKOFF_S, MAX_FAILURES, Node, StartFailures
from svd_core.cluster.scaling import (
    STOP_TIMEOUT_S,
    WITHDRAW_S,
    Demand,
    count_to_start,
    surplus,
)
from svd_core.errors import ModelGated

NOW = 1000.0
GPUS = {"a": Node("gpu-1", 4), "b": Node("gpu-2", 2), "server": Node("server", 0)}
PENDING, LOADING, IDLE = State.PENDING, State.LOADING, State.IDLE
RUNNING, STOPPING = State.RUNNING, State.STOPPING


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling.time, "monotonic", lambda: NOW)


def worker(state: State, used: float = NOW, asked: float = NOW) -> WorkerHandle:
    return WorkerHandle(None, None, frozenset(), state, used_at=used, called_at=asked)


def config(least: int = 0, most: int = 64, idle_s: float = 300.0) -> ClusterConfig:
    return ClusterConfig("127.0.0.2:6379", least, most, idle_s)


@pytest.mark.parametrize(
    ("least", "most", "states", "backlog", "count"),
    [
        (0, 64, [], None, 0),
        (2, 64, [], None, 2),
        (2, 64, [PENDING], None, 1),
        (2, 64, [RUNNING], None, 1),
        (0, 64, [], 1, 1),
        (0, 64, [], 4, 4),  # as many as jobs, at once
        (0, 64, [], 9, 6),  # there are no more GPUs
        (0, 64, [LOADING], 2, 1),  # one is on its way
        (0, 64, [RUNNING] * 6, 9, 1),  # all GPUs are in use: one for the next machine
        (0, 64, [RUNNING] * 6 + [PENDING], 9, 0),
        (0, 6, [RUNNING] * 6, 9, 0),  # never more than the most
        (0, 3, [RUNNING], 9, 2),
        (0, 64, [STOPPING], 1, 1),  # a worker that still stops is no help
    ],
)
def test_how_many_workers_are_started(
    least: int, most: int, states: list[State], backlog: int | None, count: int
) -> None:
    workers = [worker(state) for state in states]
    assert count_to_start(config(least, most), workers, GPUS, (), backlog) == count


def test_no_worker_is_counted_on_for_the_gpus_of_an_avoided_machine() -> None:
    assert count_to_start(config(), [], GPUS, {"a"}, 9) == 2
    assert count_to_start(config(), [], GPUS, {"a", "b"}, 9) == 1, "for a machine that may join"


def test_idle_workers_above_the_least_are_given_back_longest_unused_first() -> None:
    old, older, fresh = worker(IDLE, NOW - 400), worker(IDLE, NOW - 500), worker(IDLE, NOW - 100)
    busy = worker(RUNNING, NOW - 900)
    workers = [old, fresh, older, busy]
    assert surplus(config(0), workers, Demand()) == [older, old]
    assert surplus(config(3), workers, Demand()) == [older]
    assert surplus(config(4), workers, Demand()) == []


def test_the_least_stay_loaded_while_others_are_pending() -> None:
    workers = [worker(IDLE, NOW - 400), worker(PENDING)]
    assert surplus(config(1), workers, Demand(waiting=1)) == []


def test_pending_workers_are_withdrawn_when_no_job_waits_any_more() -> None:
    idle, pending = worker(IDLE), worker(PENDING)
    workers = [idle, pending]
    assert surplus(config(1), workers, Demand(waiting=1)) == []
    assert surplus(config(1), workers, Demand(waited=NOW - WITHDRAW_S)) == []
    assert surplus(config(1), workers, Demand(waited=NOW - WITHDRAW_S - 1)) == [pending]
    assert surplus(config(2), workers, Demand()) == [], "it is one of the least"


def test_a_worker_that_does_not_stop_is_given_back() -> None:
    stuck = worker(STOPPING, asked=NOW - STOP_TIMEOUT_S - 1)
    assert surplus(config(1), [stuck, worker(STOPPING)], Demand()) == [stuck]


def test_a_job_fails_after_some_failures_in_a_row_and_the_next_gets_as_many_tries() -> None:
    now = [NOW]
    failures, error = (
        StartFailures(lambda: now[0]),
        ModelGated("model_licence_required", model="svd-xt"),
    )
    assert failures.may_retry
    for delay_s in BACKOFF_S[:MAX_FAILURES]:
        assert not failures.exhausted
        failures.add(error)
        assert failures.may_retry == (delay_s == 0.0)
        now[0] += delay_s
        assert failures.may_retry
    assert failures.exhausted
    assert failures.take() is error
    assert not failures.exhausted
    assert failures.error is error, "the page shows it until a worker starts"
    failures.add(error)
    failures.clear()
    assert failures.error is None
    for _ in range(20):
        failures.add(error)
    now[0] += BACKOFF_S[-1] - 1
    assert not failures.may_retry
    failures.retry_now()
    assert failures.may_retry
