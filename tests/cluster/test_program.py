"""`python app.py` with `SVD_CLUSTER`, and a machine that joins it, as the README starts them."""

import base64
import json
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from svd_core.benchmarks.cluster.nodes import LoopbackCluster, ray_environment
from tests.fakes.job_events import eventually
from tests.test_app import ready, settings, started

__all__ = ["settings"]  # a fixture

pytestmark = pytest.mark.cluster

SECONDS = 120


@pytest.fixture
def cluster() -> Iterator[LoopbackCluster]:
    cluster = LoopbackCluster(ray_environment())
    try:
        cluster.start_head().wait_until_up()
        yield cluster
    finally:
        cluster.close()


def test_a_machine_that_joins_makes_the_video_that_waits(
    cluster: LoopbackCluster,
    settings: dict[str, str],  # noqa: F811
    image: Path,
) -> None:
    environ = settings | cluster.environ | {"SVD_CLUSTER": cluster.address}
    with started(**environ) as server:
        api = f"{ready(server, settings, SECONDS)}fal"
        assert called(f"{api}/health")["device"] == "waits for a GPU machine"
        photo = base64.b64encode(image.read_bytes()).decode()
        params = {"image_url": f"data:image/png;base64,{photo}", "num_frames": 2}
        job = called(f"{api}/queue/fal-ai/stable-video", params)
        cluster.start_node("127.0.0.3")
        eventually(lambda: called(job["status_url"])["status"] == "COMPLETED", SECONDS)
        assert called(job["response_url"])["video"]["file_size"] > 1000
        assert called(f"{api}/health")["device"].startswith("1 x CPU")
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=SECONDS)
    assert server.returncode == 0, (out, err)
    assert "Traceback" not in err + out
    assert "SIGTERM" not in err + out, "Ray's handler has replaced the program's"


def called(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    request = urllib.request.Request(url, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, body and json.dumps(body).encode(), timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
    return found
