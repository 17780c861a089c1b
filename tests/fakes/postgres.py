"""A PostgreSQL server of our own, on a socket in a folder of its own, where one is installed."""

import glob
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

SECONDS = 30


def missing() -> str | None:
    """Why there can be no server; None if there can."""
    if _program("initdb") is None or _program("postgres") is None:
        return "no PostgreSQL server is installed"
    if os.geteuid() == 0 and subprocess.run(["id", "postgres"], capture_output=True).returncode:
        return "PostgreSQL does not run as root, and there is no user postgres"
    return None


@contextmanager
def server() -> Iterator[str]:
    """Runs one; yields its SQLAlchemy URL."""
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="svd-pg-"))
    if user:
        shutil.chown(folder, user)
    data = folder / "data"
    initdb = [_program("initdb"), "-D", data, "-U", "svd", "-A", "trust", "--no-sync"]
    subprocess.run(initdb, user=user, cwd=folder, check=True, capture_output=True)
    options = {"listen_addresses": "", "unix_socket_directories": folder, "fsync": "off"}
    flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    process = subprocess.Popen(
        [_program("postgres"), "-D", data, *flags], user=user, cwd=folder,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait(folder, process)
        yield f"postgresql+psycopg://svd@/postgres?host={folder}"
    finally:
        process.send_signal(signal.SIGQUIT)  # at once; the folder goes anyway
        process.wait(SECONDS)
        shutil.rmtree(folder)


def _wait(folder: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            psycopg.connect(host=str(folder), user="svd", dbname="postgres").close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("PostgreSQL did not start")


def _program(name: str) -> str | None:
    """Debian keeps the server's programs off the path."""
    places = [str(Path(p).parent) for p in glob.glob("/usr/lib/postgresql/*/bin/postgres")]
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(places))
