"""The published Python client, configured by environment variables alone (recipes P1 and P3)."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.engines import photo
from tests.fakes.fal_server import KEY, FalServer, fal_server
from tests.fakes.fal_tls import Certificates, certificates, connect_proxy

PROGRAM = Path(__file__).parent / "fal_clients" / "use.py"

EXPECTED = {
    "subscribe": 11,
    "same address": True,
    "get": 12,
    "run": 13,
    "stream": 14,
    "cancel": 400,
}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("certificates"))


def use(folder: Path, *wishes: str, **environ: str) -> dict[str, object]:
    """What the program found out, with nothing of this machine's proxies in its environment."""
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        [sys.executable, PROGRAM, photo(folder / "photo.png"), *wishes],
        env=clean | {"FAL_KEY": KEY} | environ, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    assert told.pop("states")[-1] == "Completed"  # type: ignore[index]
    return told


def test_p1_host_names_in_the_environment(own: Certificates, tmp_path: Path) -> None:
    tls = {"ssl_certfile": str(own.chain), "ssl_keyfile": str(own.key)}
    with fal_server(tmp_path, **tls) as server:
        place = server.url.removeprefix("https://").replace("127.0.0.1", "localhost")
        told = use(
            tmp_path, FAL_RUN_HOST=f"{place}/run", FAL_QUEUE_RUN_HOST=f"{place}/queue",
            SSL_CERT_FILE=str(own.ca),
        )  # fmt: skip
    assert told == EXPECTED


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FalServer]:
    with fal_server(tmp_path / "server") as found:
        yield found


def test_p3_a_proxy_that_plays_fals_hosts(
    server: FalServer, own: Certificates, tmp_path: Path
) -> None:
    with connect_proxy(server.url, own) as proxy:
        told = use(tmp_path, "upload", HTTPS_PROXY=proxy, SSL_CERT_FILE=str(own.ca))
    assert told == EXPECTED | {"same address": False}  # ours is the one behind the proxy
    assert "POST /cdn/files/upload" in server.asked
