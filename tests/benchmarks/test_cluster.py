"""The table of the cluster benchmark. Its figures come from real nodes, and no test judges them."""

from svd_core.benchmarks.cluster.command import TARGETS, speed_lines
from svd_core.benchmarks.targets import missed, table

SPEED = {
    "workers": [1, 16], "efficiencies": [98.0, 94.9], "efficiency_percent": 94.9,
    "overhead_ms": 30.0, "local_overhead_ms": 17.0, "latency_p95_ms": 20.1,
    "cpu_us_per_event": 400.0, "cpu_ms_per_job": 9.0, "cpu_ms_per_mb": 1.5,
    "events_per_s": 1250.0, "clips_per_s": 10.0,
}  # fmt: skip
RECOVERY = {
    "worker_killed_s": 0.1, "node_killed_s": 5.0, "node_frozen_s": 15.1, "server_killed_s": 4.0
}  # fmt: skip


def test_each_figure_is_judged_by_its_limit() -> None:
    figures = SPEED | RECOVERY
    wrong = ["efficiency_percent", "latency_p95_ms", "node_frozen_s"]
    assert missed(TARGETS, figures) == wrong
    lines = table(TARGETS, figures)
    assert sum(line.endswith("missed") for line in lines) == 3
    assert sum(line.endswith("holds") for line in lines) == len(TARGETS) - 3
    assert any("16 workers" in line and "94.9 %" in line for line in speed_lines(figures))


def test_one_half_is_judged_alone() -> None:
    assert missed(TARGETS, RECOVERY) == ["node_frozen_s"]
    assert len(table(TARGETS, RECOVERY)) == len(RECOVERY)
    assert len(table(TARGETS, SPEED)) + len(RECOVERY) == len(TARGETS)
