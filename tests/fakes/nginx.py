"""nginx with `deploy/nginx.conf`, on free ports of this machine and without root's rights."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.fal_tls import Certificates

CONFIG = Path(__file__).parents[2] / "deploy" / "nginx.conf"

MAIN = """\
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxied;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


def find_nginx() -> str:
    """The program's path. Skips the test where it is missing, unless `REQUIRE_NGINX` is set."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is None:
        assert not os.environ.get("REQUIRE_NGINX"), "nginx must be there"
        pytest.skip("no nginx")
    return found


@contextmanager
def nginx(
    folder: Path, port: int, upstream: int, own: Certificates, changes: Mapping[str, str]
) -> Iterator[None]:
    """Run nginx on `port`, with TLS, in front of the port `upstream`.

    `changes`: text of the configuration to replace. The rest of it is as people copy it.
    """
    program = find_nginx()
    (plain,) = free_ports(1)
    text = CONFIG.read_text(encoding="utf-8")
    for old, new in {
        **changes,
        "127.0.0.1:7860": f"127.0.0.1:{upstream}",
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "listen 80;": f"listen 127.0.0.1:{plain};",
        "listen [::]:443 ssl;": "",
        "listen [::]:80;": "",
        "/etc/letsencrypt/live/svd.example.org/fullchain.pem": str(own.chain),
        "/etc/letsencrypt/live/svd.example.org/privkey.pem": str(own.key),
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    folder.mkdir(parents=True)
    (folder / "site.conf").write_text(text, encoding="utf-8")
    main = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # for the folders of the test
    main.write_text(MAIN.format(folder=folder, user=user), encoding="utf-8")
    command = [program, "-p", str(folder), "-c", str(main), "-e", str(folder / "error.log")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        wait_for(port, process)
        yield
    finally:
        process.terminate()
        process.communicate(timeout=30)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(400):
        assert process.poll() is None, process.communicate()[0]
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.02)
    raise AssertionError("nginx does not listen")
