"""What one visitor may take: places in line, watchers, steps and frames."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from svd_core.checkpoints.catalog import CostLimits
from svd_core.checkpoints.table import CHECKPOINTS
from svd_core.errors import InvalidRequest, QueueFull, ServerStopping, TooManyWatchers
from svd_core.events import Event
from svd_core.jobs import MAX_WATCHERS, Job, JobOptions, JobQueue, QueueLimits
from svd_core.params import VideoParams, VideoRequest
from svd_core.settings import Settings
from svd_core.storage import ResultStore
from svd_core.web.page import Backend, SessionIds
from svd_core.web.rate_limits import AddressQuota, client_address
from svd_core.web.server import max_followers
from tests.fakes.engines import READY, photo, serve
from tests.fakes.errors import has_code
from tests.fakes.fal_server import fal_server
from tests.fakes.job_events import eventually
from tests.fakes.work import FakeWork, front_queue, worker_queue

XT = CHECKPOINTS["svd-xt"]


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    return photo(tmp_path / "photo.png").read_bytes()


# Visitors.


def test_numbers_of_earlier_versions_count_where_they_have_jobs() -> None:
    old, made_up = "a" * 32, "b" * 32
    owner = "page:" + hashlib.sha256(old.encode()).hexdigest()[:32]
    visitors = SessionIds(b"secret", lambda asked: asked == owner)
    assert visitors.ensure_id(old) == old
    assert visitors.owner(old) == owner
    assert visitors.ensure_id(made_up) != made_up
    assert visitors.owner(made_up) == ""


def test_a_number_is_drawn_once_and_kept() -> None:
    visitors = SessionIds(b"secret")
    card = visitors.ensure_id(None)
    assert visitors.ensure_id(card) == card
    assert SessionIds(b"secret").ensure_id(card) == card  # after a restart
    assert visitors.ensure_id(None) != card
    assert visitors.owner(card).startswith("page:")
    assert visitors.owner(card) == SessionIds(b"secret").owner(card)
    assert card[:32] not in visitors.owner(card)


def forged(card: str) -> list[object]:
    other = "0" if card[0] != "0" else "1"
    return [
        None, 7, {}, [card], "", "0" * 32, "0" * 64, card[:32], card[32:], card[:-1], card.upper(),
        f"{card}0", other + card[1:], card[:-1] + ("0" if card[-1] != "0" else "1"),
        SessionIds(b"other").ensure_id(None), card[:32] + "\u0660" * 32, f"{card}\n",
    ]  # fmt: skip


def test_nobody_makes_up_visitors() -> None:
    visitors = SessionIds(b"secret")
    for card in forged(visitors.ensure_id(None)):
        assert visitors.owner(card) == "", card
        assert visitors.ensure_id(card) != card
    assert SessionIds().owner(SessionIds().ensure_id(None)) == ""


# Places in line.


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    with front_queue(tmp_path, QueueLimits(max_queue=5, max_per_owner=2)) as found:
        yield found


def put(queue: JobQueue, owner: str = "") -> Job:
    return queue.submit(VideoRequest(b"photo", VideoParams()), JobOptions(owner=owner))


def test_jobs_of_nobody_share_one_limit(queue: JobQueue) -> None:
    put(queue), put(queue)
    with pytest.raises(QueueFull, check=has_code("anonymous_queue_full", count=2)):
        put(queue)
    put(queue, "ann"), put(queue, "ann")
    with pytest.raises(QueueFull, check=has_code("owner_queue_full")):
        put(queue, "ann")
    put(queue, "bob")


def test_the_line_says_how_much_room_there_is(queue: JobQueue) -> None:
    assert [queue.room(), queue.room("ann")] == [2, 2]
    put(queue, "ann")
    assert [queue.room(), queue.room("ann")] == [2, 1]
    put(queue, "ann"), put(queue, "bob"), put(queue, "bob")
    assert [queue.room(), queue.room("ann"), queue.room("eve")] == [1, 0, 1]
    queue.ensure_room(JobOptions(owner="eve"))
    put(queue, "eve")
    assert queue.room("fred") == 0
    for owner in ("ann", "fred"):
        with pytest.raises(QueueFull):
            queue.ensure_room(JobOptions(owner=owner))


def test_a_line_without_limits_of_owners_has_room_for_all(tmp_path: Path) -> None:
    with front_queue(tmp_path, QueueLimits(max_queue=3)) as queue:
        put(queue)
        assert queue.room() == queue.room("ann") == 2
    with pytest.raises(ServerStopping):
        queue.ensure_room()


def a_backend(queue: JobQueue, folder: Path, **more: object) -> Backend:
    return Backend(queue, lambda: READY, ResultStore(folder), lambda _: None, **more)  # type: ignore[arg-type]


def test_no_photo_is_decoded_for_a_line_that_is_full(
    queue: JobQueue, tmp_path: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, opened = a_backend(queue, tmp_path), []
    monkeypatch.setattr("svd_core.web.page.backend.open_photo", opened.append)
    card = backend.session_ids.ensure_id(None)
    owner = backend.session_ids.owner(card)
    assert queue.room(owner) == 2
    for _ in range(2):
        backend.submit(picture, {}, card)
    for _ in range(5):
        with pytest.raises(QueueFull):
            backend.submit(picture, {}, card)
    assert len(opened) == 2
    assert queue.room(owner) == 0
    assert queue.room("page:another visitor") == 2


def test_the_api_reads_no_photo_for_a_line_that_is_full(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path, max_queue=1)
    with fal_server(tmp_path, settings, open_here=True) as server, server.work.held():
        url = f"{server.url}/queue/fal-ai/stable-video"
        for _ in range(2):  # one runs, one waits
            assert httpx.post(url, json={"image_url": uri}).status_code == 200
            eventually(lambda: server.work.requests)
        read: list[str] = []
        monkeypatch.setattr(
            "svd_core.web.fal.submit.resolve_image", lambda url, *_: read.append(url)
        )
        assert httpx.post(url, json={"image_url": uri}).status_code == 429
        assert read == []


# Addresses.


def test_an_address_has_a_quota_where_one_is_set(
    queue: JobQueue, tmp_path: Path, picture: bytes
) -> None:
    backend = a_backend(queue, tmp_path, quota=AddressQuota(1))
    first = backend.submit(picture, {}, backend.session_ids.ensure_id(None), address="192.0.2.1")
    with pytest.raises(QueueFull, check=has_code("network_queue_full", count=1)):
        backend.submit(picture, {}, backend.session_ids.ensure_id(None), address="192.0.2.1")
    backend.submit(picture, {}, backend.session_ids.ensure_id(None), address="192.0.2.2")
    backend.submit(picture, {}, address="2001:db8::1")
    with pytest.raises(QueueFull, check=has_code("network_queue_full")):
        backend.submit(picture, {}, address="2001:db8::2")
    token = client_address.set("192.0.2.2")
    try:
        with pytest.raises(QueueFull, check=has_code("network_queue_full")):
            backend.submit(picture, {}, backend.session_ids.ensure_id(None))
    finally:
        client_address.reset(token)
    first.cancel()
    eventually(lambda: first.done)
    backend.submit(picture, {}, backend.session_ids.ensure_id(None), address="192.0.2.1")


def test_without_a_quota_addresses_do_not_count(
    queue: JobQueue, tmp_path: Path, picture: bytes
) -> None:
    backend = a_backend(queue, tmp_path)
    for _ in range(5):
        backend.submit(picture, {}, backend.session_ids.ensure_id(None), address="192.0.2.1")


def test_a_submit_that_fails_takes_nothing_of_the_quota() -> None:
    quota = AddressQuota(1)

    def full() -> Job:
        raise QueueFull("queue_full", count=1)

    for _ in range(3):
        with pytest.raises(QueueFull, check=has_code("queue_full", count=1)):
            quota.submit("192.0.2.1", full)


# Watchers.


def watch(job: Job, seen: list[Event | Exception]) -> threading.Thread:
    def run() -> None:
        try:
            for event in job.events():
                seen.append(event)
        except (TooManyWatchers, ServerStopping) as error:
            seen.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    eventually(lambda: seen)
    return thread


def test_of_many_watchers_of_a_job_the_newest_stay(tmp_path: Path, picture: bytes) -> None:
    work = FakeWork(tmp_path)
    with worker_queue(tmp_path, work) as queue, work.held():
        job = queue.submit(VideoRequest(picture, VideoParams()))
        eventually(lambda: work.requests)
        seen: list[list[Event | Exception]] = [[] for _ in range(20)]
        threads = [watch(queue.get(job.id), each) for each in seen]
        for thread in threads[:-MAX_WATCHERS]:
            thread.join(30)
        assert [thread.is_alive() for thread in threads].count(True) == MAX_WATCHERS
        assert all(isinstance(each[-1], TooManyWatchers) for each in seen[:-MAX_WATCHERS])
        work.go.set()
        for thread in threads:
            thread.join(30)
        assert [each[-1] for each in seen[-MAX_WATCHERS:]] == [job.last] * MAX_WATCHERS
        assert [*job.events()][-1] == job.last


def test_watchers_that_left_are_not_counted(tmp_path: Path, picture: bytes) -> None:
    work = FakeWork(tmp_path)
    with worker_queue(tmp_path, work) as queue, work.held():
        job = queue.submit(VideoRequest(picture, VideoParams()))
        stays: list[Event | Exception] = []
        thread = watch(job, stays)
        for _ in range(3 * MAX_WATCHERS):
            leaving = job.events()
            next(leaving)
            leaving.close()  # type: ignore[attr-defined]  # it is a generator
        assert thread.is_alive()
        work.go.set()
        thread.join(30)
        assert stays[-1] == job.last


def test_there_are_watchers_enough_for_every_open_job() -> None:
    for max_queue in (1, 4, 32):
        assert max_followers(Settings(max_queue=max_queue)) >= MAX_WATCHERS * (max_queue + 1)


@pytest.mark.slow
def test_watching_one_own_job_keeps_nobody_from_theirs(tmp_path: Path, picture: bytes) -> None:
    """Even from sessions that are made up and never read."""
    path = tmp_path / "photo.png"
    settings = Settings(data_dir=tmp_path, max_queue=2)
    work = FakeWork(tmp_path)
    with serve(tmp_path, work, settings=settings) as served, work.held():
        visitors = served.visitors
        card = visitors.ensure_id(None)
        job = served.queue.submit(
            VideoRequest(picture, VideoParams()), JobOptions(owner=visitors.owner(card))
        )
        fns = served.page.fns
        opening = next(n for n, fn in fns.items() if fn.name == "on_open" and fn.inputs)
        watching = next(n for n, fn in fns.items() if fn.name == "follow")
        events = f"{served.url}/gradio_api"
        for number in range(max_followers(settings) + 6):
            session = {"session_hash": f"made-up-{number}"}
            opened = {"data": [card, None], "fn_index": opening} | session
            assert httpx.post(f"{events}/run/predict", json=opened, timeout=30).status_code == 200
            watched = {"data": [None, card], "fn_index": watching} | session
            httpx.post(f"{events}/queue/join", json=watched, timeout=30)
        ticket = served.queue.get(job.id)
        assert isinstance(ticket, Job)
        eventually(lambda: len(ticket._watchers) == MAX_WATCHERS)
        client = Client(served.url, verbose=False, analytics_enabled=False)
        honest = client.submit(image=handle_file(path), api_name="/generate")
        eventually(lambda: served.queue.length() == 1)
        work.go.set()
        assert Path(honest.result(timeout=60)[0]).stat().st_size


# What one video costs.


@pytest.mark.parametrize(
    ("limits", "steps", "frames"),
    [
        (CostLimits(), 100, 50),
        (CostLimits(checkpoint_limits=True), XT.num_inference_steps, XT.num_frames),
        (CostLimits(40, 30), 40, 30),
        (CostLimits(40, None, checkpoint_limits=True), 40, XT.num_frames),
        (CostLimits(10, 10), 10, 10),
    ],
)
def test_a_video_may_cost_so_much(limits: CostLimits, steps: int, frames: int) -> None:
    assert (limits.max_steps(XT), limits.max_frames(XT)) == (steps, frames)
    most = VideoParams(num_inference_steps=steps, num_frames=frames)
    assert limits.limit(most, XT) == most
    for name, value in (("num_inference_steps", steps + 1), ("num_frames", frames + 1)):
        if value <= {"num_inference_steps": 100, "num_frames": 50}[name]:
            expected = has_code("above_server_limit", field=name, most=value - 1)
            with pytest.raises(InvalidRequest, check=expected):
                limits.limit(replace(most, **{name: value}), XT)


def test_what_is_left_open_is_cut_to_the_limit() -> None:
    low = CostLimits(10, 8)
    found = low.limit(VideoParams(), XT)
    assert (found.num_inference_steps, found.num_frames) == (10, 8)
    turbo = low.limit(VideoParams(speed="turbo"), XT)
    assert turbo.num_inference_steps is None  # it takes four
    roomy = VideoParams(seed=1)
    assert CostLimits(checkpoint_limits=True).limit(roomy, XT) == roomy


def test_strangers_on_a_space_pay_no_more_than_the_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CostLimits.from_settings(Settings()) == CostLimits()
    monkeypatch.setenv("SPACE_HOST", "ann-studio.hf.space")
    assert CostLimits.from_settings(Settings()) == CostLimits(checkpoint_limits=True)
    assert CostLimits.from_settings(Settings(page_auth="a:b")) == CostLimits()
    assert CostLimits.from_settings(Settings(max_steps=30)) == CostLimits(
        30, checkpoint_limits=True
    )


def test_page_and_api_hold_to_it(tmp_path: Path, picture: bytes, uri: str) -> None:
    with front_queue(tmp_path) as queue:
        backend = a_backend(queue, tmp_path, costs=CostLimits(5, 6))
        for name, value in (("num_inference_steps", 6), ("num_frames", 7)):
            with pytest.raises(InvalidRequest, check=has_code("above_server_limit")):
                backend.submit(picture, {name: value})
        job = backend.submit(picture, {})
        assert job.params is not None
        assert job.params.num_frames == 6
    settings = Settings(data_dir=tmp_path / "api", max_steps=5, max_frames=6)
    with fal_server(tmp_path / "api", settings, open_here=True) as server:
        body = {"image_url": uri, "num_frames": 7}
        answer = httpx.post(f"{server.url}/run/fal-ai/stable-video", json=body)
        assert answer.status_code == 422
        (entry,) = answer.json()["detail"]
        assert entry["loc"] == ["body", "num_frames"]
        assert "at most 6" in entry["msg"]


def test_the_endpoint_counts_by_address(tmp_path: Path) -> None:
    path = photo(tmp_path / "photo.png")
    work = FakeWork(tmp_path)
    with serve(tmp_path, work, quota=AddressQuota(1)) as served, work.held():
        client = Client(served.url, verbose=False, analytics_enabled=False)
        first = client.submit(image=handle_file(path), api_name="/generate")
        eventually(lambda: work.requests)
        with pytest.raises(AppError, match="videos from your network"):
            client.predict(image=handle_file(path), api_name="/generate")
        work.go.set()
        first.result(timeout=60)
