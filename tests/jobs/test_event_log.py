"""A job's record stays short and comes back from the table as it was; time only moves on."""

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svd_core.errors import GenerationFailed, InvalidRequest, SvdError, ToolFailed, UnknownJob
from svd_core.events import (
    Failed,
    JobEvent,
    Progress,
    Stage,
    Stopped,
    Succeeded,
    Video,
    error_from_json,
    error_to_json,
    event_from_json,
    event_to_json,
)
from svd_core.jobs.schema import (
    NUMBER_BLOCK,
    Record,
    append,
    from_json,
    is_finished,
    renumber,
    to_json,
)
from svd_core.jobs.store import SteadyClock
from svd_core.messages import Message

VIDEO = Video(
    path=Path("/a.mp4"), width=8, height=8, num_frames=2, fps=7, seed=1, model="m", elapsed_s=1.0,
    motion="lively", peak_memory=5,
)  # fmt: skip
counts = st.integers(0, 10**9)
seconds = st.floats(0, 1e6)
progress = st.builds(
    Progress,
    stage=st.sampled_from(Stage),
    step=counts,
    total=counts,
    elapsed_s=seconds,
    remaining_s=seconds | st.none(),
    note=st.sampled_from(["Memory ran out.", "Ärger"]) | st.none(),
)
videos = st.builds(
    Video,
    path=st.just(Path("/data/results/a b.mp4")),
    width=counts,
    height=counts,
    num_frames=counts,
    fps=counts,
    seed=st.integers(0, 2**32 - 1),
    model=st.text(st.characters(exclude_categories=["Cs"])),
    elapsed_s=seconds,
    notes=st.lists(st.text(st.characters(exclude_categories=["Cs"]))).map(tuple),
    motion=st.sampled_from(["", "lively"]),
    peak_memory=counts | st.none(),
)
endings = st.builds(Succeeded, videos) | st.just(Stopped())
times = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def filled(events: list[tuple[object, datetime]]) -> Record:
    record: Record = ()
    for event, at in events:
        record = append(record, event, at)  # type: ignore[arg-type]
    return record


@given(st.lists(st.tuples(progress | endings, times), min_size=1, max_size=30))
def test_a_record_is_in_order_and_ends_once(events: list[tuple[object, datetime]]) -> None:
    record = filled(events)
    assert all(a.number < b.number and a.at <= b.at for a, b in pairwise(record))
    assert all(isinstance(entry.event, Progress) for entry in record[:-1])
    first_end = next((e for e, _ in events if not isinstance(e, Progress)), None)
    assert record[-1].event == (first_end or events[-1][0])
    assert is_finished(record) == (first_end is not None)


@given(st.lists(st.tuples(progress, times), min_size=1, max_size=30), endings, times)
def test_a_record_comes_back_from_the_table(
    events: list[tuple[object, datetime]], end: Succeeded | Stopped, at: datetime
) -> None:
    record = filled([*events, (end, at)])
    assert from_json(to_json(record)) == record


def test_videos_of_before_motion_was_measured_are_read() -> None:
    ((number, at, values),) = json.loads(to_json(filled([(Succeeded(VIDEO), datetime.now(UTC))])))
    del values["motion"], values["peak_memory"]
    (entry,) = from_json(json.dumps([[number, at, values]]))
    assert entry.event == Succeeded(replace(VIDEO, motion="", peak_memory=None))


PREVIEW = Progress(stage=Stage.DENOISING, step=4, preview=b"a picture")


def test_previews_stay_out_of_the_table() -> None:
    record = filled([(PREVIEW, datetime.now(UTC))])
    assert record[0].event == PREVIEW
    text = to_json(record)
    assert "preview" not in text
    (entry,) = from_json(text)
    assert entry.event == replace(PREVIEW, preview=None)


@pytest.mark.parametrize(
    ("end", "left"),
    [
        (None, [None, b"newer", None]),
        (Stopped(), [None, b"newer", None]),
        (Failed(GenerationFailed("model_gave_nothing")), [None, b"newer", None]),
        (Succeeded(VIDEO), [None, None, None]),
    ],
)
def test_only_the_newest_preview_is_kept(end: object, left: list[bytes | None]) -> None:
    """A hundred steps of a job that is remembered would hold megabytes."""
    newer = replace(PREVIEW, step=8, preview=b"newer")
    after = Progress(stage=Stage.DENOISING, step=9)
    events = [PREVIEW, newer, after] + ([end] if end else [])
    record = filled([(event, datetime.now(UTC)) for event in events])
    found = [e.event.preview for e in record if isinstance(e.event, Progress)]
    assert found == left


def test_newer_progress_replaces_that_of_its_stage_but_no_step_and_no_note() -> None:
    at = datetime.now(UTC)
    load = [Progress(stage=Stage.LOADING, step=n) for n in range(2)]
    step = [Progress(stage=Stage.DENOISING, step=n) for n in range(3)]
    again = Progress(stage=Stage.DENOISING, step=1, elapsed_s=2.0)
    note = Progress(stage=Stage.DENOISING, step=1, note="Memory ran out.")
    record = filled([(event, at) for event in (*load, step[0], step[1], again, note, step[2])])
    assert [entry.event for entry in record] == [load[1], step[0], again, note, step[2]]
    assert [entry.number for entry in record] == [2, 3, 5, 6, 7]


def test_each_start_numbers_events_above_all_that_the_last_one_gave() -> None:
    at = datetime.now(UTC)
    record = filled([(Progress(stage=Stage.QUEUED), at), (PREVIEW, at)])
    again = renumber(record)
    assert [entry.number for entry in again] == [1, NUMBER_BLOCK]
    assert [entry.event for entry in again] == [entry.event for entry in record]
    later = renumber(append(again, Progress(stage=Stage.DECODING), at))
    assert [entry.number for entry in later] == [1, NUMBER_BLOCK, 2 * NUMBER_BLOCK]


def every(kind: type[SvdError]) -> list[type[SvdError]]:
    return [kind] + [deeper for child in kind.__subclasses__() for deeper in every(child)]


def packed(error: SvdError) -> SvdError:
    """`error`, through the table and back."""
    event = from_json(to_json((JobEvent(1, datetime.now(UTC), Failed(error)),)))[0].event
    assert isinstance(event, Failed)
    return event.error


@pytest.mark.parametrize("kind", [kind for kind in every(SvdError)[1:] if kind is not ToolFailed])
def test_every_error_comes_back_as_it_was(kind: type[SvdError]) -> None:
    reason = Message("memory_too_small_to_load", model="x")
    error = kind(Message("demo_instead", reason=reason, model="svd-nano"))
    if isinstance(error, InvalidRequest):
        error.field = "fps"
    back = packed(error)
    assert type(back) is kind
    assert (str(back), back.status, vars(back)) == (str(error), error.status, vars(error))
    assert isinstance(back.message, Message)
    assert isinstance(error.message, Message)
    assert (back.code, back.message.values) == (error.code, error.message.values)


def test_an_error_of_an_older_version_has_the_code_of_its_class() -> None:
    old = {"class": "UnknownJob", "status": 404, "carried": {"message": "It is gone."}}
    error = error_from_json(old)
    assert (type(error), str(error), error.code) == (UnknownJob, "It is gone.", "unknown_job")


def test_an_error_of_a_newer_version_keeps_code_and_sentence() -> None:
    carried = {"message": "The moon is full.", "code": "moon_full"}
    new = {"class": "UnknownJob", "status": 404, "carried": carried, "values": {"phase": 1}}
    error = error_from_json(new)
    assert (str(error), error.message, error.code) == (
        "The moon is full.", "The moon is full.", "moon_full",
    )  # fmt: skip
    assert error_to_json(error)["carried"] == carried


def test_notes_come_back_as_messages_and_those_of_older_versions_as_text(tmp_path: Path) -> None:
    notes = (Message("frames_untrained", model="svd-xt", frames=25), "Made by an older version.")
    video = replace(VIDEO, path=tmp_path / "a.mp4", notes=notes)
    for event in (Succeeded(video), Progress(stage=Stage.QUEUED, note=Message("server_stopped"))):
        stored = json.loads(json.dumps(event_to_json(event)))
        back = event_from_json(stored)
        assert back == event
        first = back.note if isinstance(back, Progress) else back.video.notes[0]
        assert isinstance(first, Message)


def test_an_error_whose_class_is_gone_keeps_sentence_and_status() -> None:
    class Gone(UnknownJob):
        status = 418

    text = to_json((JobEvent(1, datetime.now(UTC), Failed(Gone("job_expired"))),))
    (entry,) = from_json(text.replace("Gone", "Vanished"))
    assert isinstance(entry.event, Failed)
    assert str(entry.event.error) == Message("job_expired")
    assert (entry.event.error.code, entry.event.error.status) == ("job_expired", 418)
    assert SvdError.status == 500


def test_what_json_cannot_hold_is_left_behind() -> None:
    error = GenerationFailed("unexpected", number="1")
    error.array = object()  # type: ignore[attr-defined]
    error.detail = {"loc": ["body", "fps"]}  # type: ignore[attr-defined]
    assert vars(packed(error)) == {
        "message": Message("unexpected", number="1"),
        "code": "unexpected",
        "detail": {"loc": ["body", "fps"]},
    }


class Hands:
    """The hands of two clocks, moved by the test."""

    def __init__(self) -> None:
        self.wall = 1_000_000.0
        self.steady = 50.0


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def clock(hands: Hands) -> SteadyClock:
    return SteadyClock(lambda: hands.wall, lambda: hands.steady)


def test_a_clock_follows_the_wall(hands: Hands, clock: SteadyClock) -> None:
    assert clock.now() == 1_000_000
    hands.wall, hands.steady = hands.wall + 10, hands.steady + 10
    assert clock.now() == 1_000_010
    hands.wall += 3600  # set forward, or the machine slept
    assert clock.now() == 1_003_610


def test_a_clock_set_back_moves_on_all_the_same(hands: Hands, clock: SteadyClock) -> None:
    hands.wall, hands.steady = hands.wall - 3600, hands.steady + 10
    assert clock.now() == 1_000_010
    hands.wall, hands.steady = hands.wall + 5, hands.steady + 5
    assert clock.now() == 1_000_015
    hands.wall, hands.steady = hands.wall + 4000, hands.steady + 4000
    assert clock.now() == 1_004_015


def test_clocks_are_read_by_many_threads(clock: SteadyClock, hands: Hands) -> None:
    shown: list[float] = []

    def read() -> None:
        for _ in range(200):
            hands.wall -= 1
            shown.append(clock.now())

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(shown) == {1_000_000.0}
