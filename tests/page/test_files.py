"""What the page leaves on disk, and what strangers make it do: below the browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from sqlalchemy import func, select

from svd_core.events import Succeeded
from svd_core.jobs import JobOptions
from svd_core.jobs.schema import PHOTOS
from svd_core.params import VideoParams, VideoRequest
from svd_core.temp_folder import EXPORT_FOLDER
from svd_core.web.page.batch import MAX_PHOTOS
from svd_core.web.page.gallery_actions import archive_key
from tests.fakes.engines import Served, examples, photo, serve
from tests.fakes.job_events import ending, eventually
from tests.fakes.work import FakeWork


@pytest.fixture(scope="module")
def temp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("temp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, temp: Path) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    examples(folder)
    with serve(folder, FakeWork(folder)) as served:
        yield served


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    return photo(tmp_path / "photo.png").read_bytes()


def event(served: Served, name: str) -> Any:
    """The page's function of that name, and the components it takes."""
    return next(f for f in served.page.fns.values() if getattr(f.fn, "__name__", "") == name)


def submitted(served: Served, card: str, data: bytes) -> Any:
    request = VideoRequest(data, VideoParams(seed=1))
    options = JobOptions(owner=served.visitors.owner(card), keep_photo=True)
    return served.queue.submit(request, options)


def test_a_stranger_stops_nobodys_job(served: Served, data: bytes) -> None:
    """The session of another visitor gives the ids of their jobs, but not their identity."""
    card, stranger = served.visitors.ensure_id(None), served.visitors.ensure_id(None)
    stop = event(served, "on_stop").fn
    with served.work.held():
        job = submitted(served, card, data)
        for other in (stranger, None, "", "x"):
            stop([job.id], other)
        stop([job.id, "no such job", None], stranger)
        assert not job.done
        assert not job.cancel_event.is_set()
        stop([job.id], card)
    eventually(lambda: job.done)
    assert not isinstance(job.last, Succeeded)


def test_a_batch_reads_no_more_photos_than_fit(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call named one large photo as often as its sender liked, and each was decoded."""
    opened: list[bytes] = []
    monkeypatch.setattr("svd_core.web.page.backend.open_photo", opened.append)
    path, go = photo(tmp_path / "a.png"), event(served, "on_go")
    batch = next(c for c in go.inputs if c.elem_id == "photos")
    given = {c: getattr(c, "value", None) for c in go.inputs} | {batch: [str(path)] * 1000}
    with served.work.held():
        go.fn(given, gr.Request(headers={}))
        assert len(opened) <= 4 + 2  # the line's places, the one that runs, and one too many
        for job in list(served.queue._open_jobs._jobs.values()):  # type: ignore[attr-defined]
            job.cancel()
    opened.clear()
    path.write_bytes(b"no photo")
    monkeypatch.undo()
    monkeypatch.setattr(
        "svd_core.web.page.batch.read_photo", lambda path: opened.append(b"") or b"no"
    )
    go.fn(given, gr.Request(headers={}))
    assert len(opened) == MAX_PHOTOS


def test_deleting_a_video_deletes_every_copy(served: Served, temp: Path, data: bytes) -> None:
    card = served.visitors.ensure_id(None)
    job, other = (submitted(served, card, data) for _ in range(2))
    for each in (job, other):
        assert isinstance(ending(each), Succeeded)
    download, chosen = event(served, "on_download").fn, event(served, "on_chosen").fn
    download(card)
    download(card)
    (archive,) = temp.glob(
        f"{EXPORT_FOLDER}/*/videos.zip"
    )  # each click takes the place of the last
    assert archive.parent.name == archive_key(served.visitors.owner(card)) != archive_key("")
    (temp / "abc").mkdir()
    copy = temp / "abc" / f"{job.id}.mp4"
    copy.write_bytes(b"video")
    export = temp / EXPORT_FOLDER / job.id / "svd-1.gif"
    export.parent.mkdir(parents=True)
    export.write_bytes(b"gif")

    def remove(one: Any, by: str) -> None:
        target = next(iter(served.page.blocks.values()))
        chosen(by, gr.EventData(target, {"what": "remove", "job": one.id}), gr.Request(headers={}))

    remove(job, served.visitors.ensure_id(None))
    assert copy.exists()
    remove(job, card)
    assert not any(path.exists() for path in (archive, copy, export))
    assert served.queue.photo(other.id) == data
    remove(other, card)
    with served.queue.table.database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(PHOTOS)) == 0


def test_events_without_their_data_are_answered(served: Served) -> None:
    """They are made up. Each cost two kilobytes of log, as an unexpected error."""
    target = next(iter(served.page.blocks.values()))
    empty, request = gr.EventData(target, {}), gr.Request(headers={})
    for name in ("on_chosen", "on_picked"):
        assert event(served, name).fn(None, empty, request)
    assert event(served, "on_move").fn(empty)
