"""`python app.py`: it starts, works and stops, as a process of its own."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from gradio_client import Client, handle_file
from sqlalchemy import text

from svd_core.database import Database
from svd_core.jobs.schema import State
from svd_core.media.video import read_frames
from svd_core.owner_lock import LOST, OwnerLock
from svd_core.params import VideoParams, VideoRequest
from svd_core.temp_folder import TempFolder
from tests.fakes import postgres
from tests.fakes.engines import photo
from tests.fakes.job_events import eventually
from tests.fakes.webhook_receiver import receiving
from tests.fakes.work import front_queue, open_table
from tests.web.test_listener import has_ipv6

ROOT = Path(__file__).parent.parent
SECONDS = 60
"""Far more than starting or stopping takes on a machine that has nothing else to do."""


@contextmanager
def started(*code: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, *(code or ("app.py",))], cwd=ROOT, env=os.environ | environ, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def settings(tiny_checkpoint: Path, tmp_path: Path) -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "SVD_MODEL": str(tiny_checkpoint),
        "SVD_DATA_DIR": str(tmp_path),
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_SERVER_NAME": "127.0.0.1",
    }


def ready(
    process: subprocess.Popen[str], settings: dict[str, str], seconds: float = SECONDS
) -> str:
    url = f"http://127.0.0.1:{settings['GRADIO_SERVER_PORT']}/"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return url
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"no page within {seconds} s")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("SVD_MODLE", "svd", "SVD_MODLE is not a setting."),
        ("SVD_MAX_QUEUE", "many", "SVD_MAX_QUEUE"),
        ("SVD_PAGE_AUTH", "ada", "SVD_PAGE_AUTH"),
        ("SVD_MODEL", "no-such-model", "no-such-model"),
        ("SVD_DATA_DIR", "/dev/null/x", "/dev/null/x"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_sentence(
    settings: dict[str, str], name: str, value: str, sentence: str
) -> None:
    with started(**settings | {name: value}) as process:
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert sentence in err
    assert err.count("\n") == 1
    assert "Serving" not in out


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"SVD_MODEL": "no-such-model"}, "There is no model 'no-such-model'"),
        (
            {"SVD_COMPILE": "on", "SPACES_ZERO_GPU": "true"},
            "SVD_COMPILE=on does not work on ZeroGPU",
        ),
    ],
)
def test_a_wrong_setting_is_told_before_anything_slow_is_imported(
    settings: dict[str, str], tmp_path: Path, wrong: dict[str, str], sentence: str
) -> None:
    for library in ("gradio", "torch", "spaces"):
        (tmp_path / f"{library}.py").write_text("raise AssertionError('imported')")
    with started(**settings | wrong, PYTHONPATH=str(tmp_path)) as process:
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert err.startswith(sentence)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"GRADIO_SERVER_PORT": "text"}, "GRADIO_SERVER_PORT must be a number"),
        ({"GRADIO_NUM_PORTS": "many"}, "GRADIO_NUM_PORTS must be a number"),
        ({"ALL_PROXY": "socks4://127.0.0.1:1080"}, "ALL_PROXY cannot be used"),
        ({"HTTPS_PROXY": "http://127.0.0.1:port"}, "HTTPS_PROXY cannot be used"),
        ({"SVD_PUBLIC_URL": "svd.example"}, "SVD_PUBLIC_URL is wrong"),
    ],
)
def test_a_wrong_environment_is_told_before_gradio_meets_it(
    settings: dict[str, str], wrong: dict[str, str], sentence: str
) -> None:
    with started(**settings | wrong) as process:
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert err.startswith(sentence)
    assert err.count("\n") == 1


def test_a_broken_installation_is_one_sentence(settings: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "gradio.py").write_text("raise ValueError('no such thing')")
    with started(**settings, PYTHONPATH=str(tmp_path)) as process:
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert err.startswith("Gradio cannot be loaded (ValueError('no such thing'))")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_it_needs_next_to_nothing_of_its_environment(
    settings: dict[str, str], tmp_path: Path
) -> None:
    """As under systemd, cron or a container with little in it: no PATH, HOME, LANG or USER."""
    bare = ["env", "-i", *(f"{name}={value}" for name, value in settings.items())]
    process = subprocess.Popen(
        [*bare, sys.executable, "app.py"], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        ready(process, settings)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, err) == (0, "")


READ_ONLY = """
import os, tempfile
import app
from svd_core.settings import Settings
tempfile.tempdir = None
tempfile._candidate_tempdir_list = lambda: [os.environ["TMPDIR"]]
app.temp_path(Settings.from_env())
print("found", tempfile.gettempdir())
"""


@pytest.mark.slow
def test_libraries_get_a_temporary_folder_where_the_system_has_none(
    settings: dict[str, str], tmp_path: Path
) -> None:
    """As in a container whose only folder that can be written holds the data."""
    with started("-c", READ_ONLY, **settings, TMPDIR=str(tmp_path / "absent")) as process:
        assert first_line(process, "found ") == f"found {tmp_path / 'tmp'}\n"


@pytest.mark.slow
def test_a_port_that_another_program_has_is_refused(settings: dict[str, str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(settings["GRADIO_SERVER_PORT"])))
        other.listen()
        with started(**settings) as process:
            out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert err.startswith(f"Port {settings['GRADIO_SERVER_PORT']} is used by another program")
    assert err.count("\n") == 1
    assert "Serving" not in out


@pytest.mark.parametrize(
    "environ",
    [
        {
            "HTTP_PROXY": "http://127.0.0.1:9", "https_proxy": "127.0.0.1:9", "NO_PROXY": "[::1],é",
            "SVD_PORT": "tcp://10.96.0.12:7860", "SVD_SERVICE_HOST": "10.96.0.12",
            "SVD_PORT_7860_TCP_ADDR": "10.96.0.12", "GRADIO_NUM_PORTS": "", "GRADIO_DEBUG": "1",
            "SVD_KEEP_GB": "inf", "SVD_UPLOADS_GB": "inf", "SVD_KEEP_HOURS": "inf",
        },
        {
            "ALL_PROXY": "socks5://127.0.0.1:9", "all_proxy": "socks://127.0.0.1:9",
            "GRADIO_SERVER_NAME": "[::]" if has_ipv6() else "0.0.0.0",
        },
    ],
)  # fmt: skip
def test_it_serves_where_people_put_it(settings: dict[str, str], environ: dict[str, str]) -> None:
    if "ALL_PROXY" in environ:
        pytest.importorskip("socksio")
    with started(**settings | environ) as process:
        url = first_line(process, "Serving ").split()[1]
        assert ready(process, settings)
        socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=30).close()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert err == ""


def first_line(process: subprocess.Popen[str], start: str) -> str:
    """The first line of output that begins with `start`."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return line
    pytest.fail(f"it ended: {process.communicate()}")


@pytest.mark.slow
def test_ctrl_c_while_the_model_loads_ends_it_cleanly(settings: dict[str, str]) -> None:
    with started(**settings) as process:
        ready(process, settings)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert "Traceback" not in err


@pytest.mark.slow
def test_sigterm_puts_a_running_job_back_and_leaves_nothing_half_made(
    settings: dict[str, str], tmp_path: Path
) -> None:
    path = handle_file(photo(tmp_path / "photo.png"))
    with started(**settings) as process:
        client = Client(ready(process, settings), verbose=False, analytics_enabled=False)
        video, seed, _ = client.predict(image=path, api_name="/generate")
        assert Path(video).stat().st_size > 1000
        assert 0 <= seed < 2**32
        job = client.submit(
            image=path, num_inference_steps=100, num_frames=50, api_name="/generate"
        )
        while not (job.status().progress_data or job.done()):
            time.sleep(0.05)
        assert not job.done()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert "Traceback" not in err
    left = {path.suffix for path in (tmp_path / "results").iterdir()}
    assert left == {".mp4", ".mkv"}  # of the video that was done
    with open_table(tmp_path) as table:
        (waits,) = table.open_jobs()
        row = table.get(waits.id)
    assert row is not None
    assert (row.state, row.attempt) == (State.WAITING, 0)


TELLS_WHAT_IT_LOADS = """
import runpy
from dataclasses import replace
from svd_core.checkpoints.catalog import ModelCatalog
from tests.fakes.engines import READY, SQUARE, DriftingEngine

class Telling(DriftingEngine):
    def load(self, on_progress, model=None):
        print("load", model, flush=True)
        return super().load(on_progress, model)

two = replace(READY, catalog=ModelCatalog((READY.checkpoint, SQUARE)))
runpy.run_path("app.py")["main"](lambda settings: Telling(two))
"""


@pytest.mark.slow
@pytest.mark.parametrize("waits", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_usual_one_is_loaded_at_the_start_unless_somebody_waits_for_another(
    settings: dict[str, str], tmp_path: Path, waits: bool
) -> None:
    if waits:
        image = photo(tmp_path / "photo.png").read_bytes()
        with front_queue(tmp_path) as queue:
            queue.submit(VideoRequest(image, VideoParams(seed=1, model="square")))
    with started("-c", TELLS_WHAT_IT_LOADS, **settings) as process, open_table(tmp_path) as table:
        url = ready(process, settings)
        eventually(lambda: not table.open_jobs(), SECONDS)
        time.sleep(0.5)  # what is loaded at the start would be by now
        model = asked(f"{url}fal/health")["model"]
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=SECONDS)
    loaded = {line.partition(" ")[2] for line in out.splitlines() if line.startswith("load ")}
    assert loaded == ({"square"} if waits else {"None"})
    assert model == ("square" if waits else "svd-nano")


@pytest.mark.slow
def test_what_it_keeps_is_its_owners_alone_and_what_a_killed_one_left_is_swept(
    settings: dict[str, str], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    settings |= {"SVD_DATA_DIR": str(data)}
    code = ("-c", f"import os; os.umask(0o022)\n{TELLS_WHAT_IT_LOADS}")
    picture = photo(tmp_path / "photo.png")
    with started(*code, **settings) as process, open_table(data) as table:
        url = ready(process, settings)
        Client(url, verbose=False, analytics_enabled=False).predict(
            image=handle_file(picture), api_name="/generate"
        )
        eventually(lambda: not table.open_jobs(), SECONDS)
        process.kill()
        process.wait()
    kept = {path.relative_to(data).parts[0] for path in data.rglob("*") if path.is_file()}
    assert {"tmp", "results", "jobs.sqlite"} <= kept
    modes = {path: path.stat().st_mode & 0o777 for path in [data, *data.rglob("*")]}
    assert {path: mode for path, mode in modes.items() if mode & 0o077} == {}
    assert TempFolder(data / "tmp", keep_s=3600, most_bytes=0).sweep()
    assert not any(path.is_file() for path in (data / "tmp").rglob("*"))


LOSES_ITS_GPU_ONCE = """
import runpy
from pathlib import Path
from svd_core.errors import DeviceLost
from tests.fakes.engines import DriftingEngine

class Losing(DriftingEngine):
    def generate(self, *given):
        lost = Path("{folder}") / "lost"
        if not lost.exists():
            lost.touch()
            raise DeviceLost("gpu_lost", reason="CUDA error")
        return super().generate(*given)

runpy.run_path("app.py")["main"](lambda settings: Losing())
"""


@pytest.mark.slow
def test_a_lost_gpu_ends_the_process_and_the_next_one_makes_the_jobs(
    settings: dict[str, str], tmp_path: Path
) -> None:
    image = photo(tmp_path / "photo.png").read_bytes()
    with front_queue(tmp_path) as queue:
        ids = [queue.submit(VideoRequest(image, VideoParams(seed=n))).id for n in (1, 2)]
    code = LOSES_ITS_GPU_ONCE.format(folder=tmp_path)
    with started("-c", code, **settings) as process:
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert err.splitlines()[-1] == "The GPU stopped working (CUDA error). Restart the program."
    assert "Traceback" not in err
    with open_table(tmp_path) as table:
        assert {glance.id for glance in table.open_jobs()} == set(ids), "none has failed"
        with started("-c", code, **settings) as process:
            eventually(lambda: not table.open_jobs(), SECONDS)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=SECONDS)
        rows = {row.id: row for row in table.get_many(ids)}
    assert [rows[job_id].attempt for job_id in ids] == [2, 1]
    assert {path.stem for path in (tmp_path / "results").glob("*.mp4")} == set(ids)


@pytest.mark.slow
def test_a_second_server_waits_and_takes_over_when_the_first_is_killed(
    settings: dict[str, str], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        other = settings | {"GRADIO_SERVER_PORT": str(free.getsockname()[1])}
    with started(**settings) as first:
        ready(first, settings)
        with started(**other) as second:
            assert second.stdout is not None
            sentence = second.stdout.readline()
            assert sentence.startswith(f"Another server owns the job table at sqlite:///{tmp_path}")
            with pytest.raises(OSError, match="refused"):
                urllib.request.urlopen(f"http://127.0.0.1:{other['GRADIO_SERVER_PORT']}/")
            first.kill()
            ready(second, other)
            second.send_signal(signal.SIGTERM)
            out, err = second.communicate(timeout=SECONDS)
    assert second.returncode == 0
    assert "Another server" not in out
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_server_that_loses_its_lock_on_the_database_ends(settings: dict[str, str]) -> None:
    if reason := postgres.missing():
        pytest.skip(reason)
    with postgres.server() as url, started(**settings | {"SVD_DATABASE_URL": url}) as process:
        ready(process, settings)
        database = Database(url)
        with database.read() as connection:
            cut = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
            assert connection.scalar(text(cut)) is True
        database.close()
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert err.splitlines()[-1] == LOST


def test_a_standby_that_is_stopped_ends_cleanly(settings: dict[str, str], tmp_path: Path) -> None:
    with standing_owner(tmp_path), started(**settings) as process:
        assert process.stdout is not None
        assert "This one waits" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert (out, err) == ("", "")


@contextmanager
def standing_owner(folder: Path) -> Iterator[None]:
    """As long as this runs, the table in `folder` is owned."""
    database = Database(f"sqlite:///{folder / 'jobs.sqlite'}")
    lock = OwnerLock.of(database, folder, pytest.fail)
    assert lock.acquire(threading.Event(), pytest.fail)
    try:
        yield
    finally:
        lock.close()
        database.close()


def asked(url: str, body: dict[str, object] | None = None, seconds: float = 10) -> dict[str, Any]:
    """The answer of the HTTP API, which is open on this machine."""
    data = None if body is None else json.dumps(body).encode()
    call = urllib.request.Request(url, data, headers={"content-type": "application/json"})
    with urllib.request.urlopen(call, timeout=10) as answer:
        told: dict[str, Any] = json.load(answer)
        return told


def test_killed_with_jobs_running_and_waiting_it_makes_them_after_the_restart(
    settings: dict[str, str], tmp_path: Path
) -> None:
    """By the API alone: each ends once, with a video to download and a signed webhook."""
    picture = base64.b64encode(photo(tmp_path / "photo.png").read_bytes()).decode()
    body = {"image_url": f"data:image/png;base64,{picture}"}
    settings |= {"SVD_ALLOW_PRIVATE_URLS": "1"}
    with receiving() as receiver, open_table(tmp_path) as table:
        with started(**settings) as process:
            queue = f"{ready(process, settings)}fal/queue/fal-ai/stable-video"
            ids = [
                asked(f"{queue}?fal_webhook={receiver.url}", body | own)["request_id"]
                for own in (
                    {"num_inference_steps": 30, "num_frames": 4, "seed": 7},
                    {"num_inference_steps": 1, "num_frames": 3, "seed": 8},
                )
            ]
            while sorted(glance.state for glance in table.open_jobs()) != ["running", "waiting"]:
                time.sleep(0.05)
            process.kill()
            process.wait()
        with started(**settings) as process:
            url = ready(process, settings)
            eventually(lambda: not table.open_jobs(), SECONDS)
            for job_id, seed in zip(ids, (7, 8), strict=True):
                told = asked(f"{queue}/requests/{job_id}")
                assert told["seed"] == seed
                path = tmp_path / f"{seed}.mp4"
                urllib.request.urlretrieve(told["video"]["url"], path)
                assert len(read_frames(path)) == {7: 4, 8: 3}[seed]
            eventually(lambda: {hook.told["request_id"] for hook in receiver.hooks} == set(ids))
            keys = asked(f"{url}fal/rest/.well-known/jwks.json")
        first, second = sorted(table.get_many(ids), key=lambda row: ids.index(row.id))
    assert (first.attempt, second.attempt) == (2, 1)
    assert (first.started or 0) < (second.started or 0)
    for hook in receiver.hooks:
        hook.check(keys)
        assert hook.told["status"] == "OK"
