"""No request keeps others from an answer: `/fal/health` is asked while hostile ones come.

`python -m svd_core.benchmarks hostile --check` measures for how long.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from svd_core.benchmarks.hostile import HostileRequest, hostile_requests
from svd_core.settings import Settings
from tests.api.test_shared_server import page_and_api
from tests.fakes.fal_server import KEY, KEYS


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("watched")
    with page_and_api(Settings(data_dir=folder, api_keys=KEYS)) as (found, _):
        yield found


def send(url: str, request: HostileRequest) -> int:
    path, body, headers = request
    own: dict[str, Any] = {"Authorization": f"Key {KEY}", "Content-Type": "application/json"}
    if not path.startswith("/fal/"):
        del own["Authorization"]
    try:
        method = "POST" if body else "GET"
        answer = httpx.request(
            method, f"{url}{path}", content=body or None, headers=own | {**headers}, timeout=60
        )
    except httpx.TransportError:
        return 0  # the connection was ended while it was still being sent
    return answer.status_code


@pytest.mark.slow
def test_health_answers_while_hostile_requests_come(url: str) -> None:
    hostile = hostile_requests()
    assert len(hostile) >= 30
    done, told = threading.Event(), []

    def watch() -> None:
        with httpx.Client(timeout=60) as client:
            while not done.wait(0.01):
                told.append(client.get(f"{url}/fal/health").status_code)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            statuses = dict(pool.map(lambda kind: (kind, send(url, hostile[kind])), hostile))
    finally:
        done.set()
        watching.join()
    assert {kind: status for kind, status in statuses.items() if status >= 500} == {}
    assert set(told) == {200}
