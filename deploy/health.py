"""Health check of the image: whether the server in this container answers.

It asks `/fal/health`, which needs no key and no login, and is there whatever `SVD_PUBLIC_URL` is.
A Ray node ends together with its container, so a container without the server counts as healthy.
"""

import os
import sys
from collections.abc import Mapping
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from svd_core.errors import InvalidSettings
from svd_core.web.listener import DEFAULT_PORT, WILDCARDS, ListenAddress

TIMEOUT_S = 8.0
"""Less than the timeout in the Dockerfile, so that the reason is printed."""


def has_server(processes: Path = Path("/proc")) -> bool:
    """Whether one of the processes is `python app.py`."""
    for path in processes.glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if b"python" in words[0] and b"app.py" in words:
            return True
    return False


def problem(environ: Mapping[str, str]) -> str | None:
    """What is wrong with the server that was started with `environ`; None if it answers."""
    try:
        address = ListenAddress.from_env(environ)
    except InvalidSettings as error:
        return error.message
    host, port = WILDCARDS.get(address.host, address.host), address.port or DEFAULT_PORT
    # Unlike urllib, http.client never uses the proxies of the environment.
    with closing(HTTPConnection(host, port, timeout=TIMEOUT_S)) as connection:
        try:
            connection.request("GET", "/fal/health")
            status = connection.getresponse().status
        except (OSError, HTTPException) as error:
            return f"The server on port {port} does not answer: {error!r}"
    return None if status == 200 else f"The server on port {port} answers with status {status}."


if __name__ == "__main__":
    sys.exit(problem(os.environ) if has_server() else None)
