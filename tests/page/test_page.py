"""The page below the browser: its words, its endpoint, MCP, and what it refuses."""

import asyncio
import base64
import inspect
import json
import sys
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import fields, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from PIL import Image

from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.checkpoints.table import CHECKPOINTS
from svd_core.errors import InvalidRequest, OutOfMemory
from svd_core.events import Event, Failed, Progress, Stage, Stopped, Succeeded, Video
from svd_core.jobs import JobQueue
from svd_core.params import VideoParams, VideoRequest
from svd_core.settings import Settings
from svd_core.storage import ResultStore
from svd_core.web import server
from svd_core.web.middleware import MAX_BODY
from svd_core.web.page import Backend, build_page, formatting
from svd_core.web.page.controls import Changes
from svd_core.web.page.endpoint import endpoint
from svd_core.web.page.examples import find_examples
from svd_core.web.page.i18n import texts_for
from svd_core.web.page.player import Player
from tests.fakes.engines import READY, Served, examples, photo, retention, serve
from tests.fakes.errors import has_code
from tests.fakes.work import FakeWork, front_queue, inline_queue, worker_queue

SAY = texts_for()

WITH_TURBO = AccelerationConfig(turbo=Path("turbo.safetensors"))

VIDEO = Video(
    path=Path("x.mp4"), width=512, height=288, num_frames=14, fps=7, seed=3, model="svd-nano",
    elapsed_s=12.3, notes=("fps was held to 30.",),
)  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    examples(folder)
    with serve(folder, FakeWork(folder)) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Client:
    return Client(served.url, verbose=False, analytics_enabled=False)


@pytest.fixture
def a_photo(tmp_path: Path) -> Path:
    return photo(tmp_path / "photo.png")


class TestWords:
    @pytest.mark.parametrize(
        ("progress", "text"),
        [
            (Progress(stage=Stage.QUEUED), "Starting…"),
            (Progress(stage=Stage.QUEUED, step=1), "Waiting · 1 video ahead of yours"),
            (Progress(stage=Stage.QUEUED, step=3), "Waiting · 3 videos ahead of yours"),
            (
                Progress(stage=Stage.LOADING, step=2_100_000_000, total=9_600_000_000),
                "Loading the model · 2.1 of 9.6 GB",
            ),
            (
                Progress(stage=Stage.DENOISING, step=3, total=25, remaining_s=42.4),
                "Imagining the motion · step 3 of 25 · about 42 s left",
            ),
            (
                Progress(stage=Stage.DENOISING, step=0, total=1, remaining_s=4.2),
                "Imagining the motion · about 4 s left",
            ),
            (
                Progress(stage=Stage.DECODING, step=4, total=14, remaining_s=0.1),
                "Drawing the frames · frame 4 of 14",
            ),
        ],
    )
    def test_progress_is_one_readable_line(self, progress: Progress, text: str) -> None:
        assert formatting.progress_text(progress, SAY) == text

    def test_every_stage_has_words(self) -> None:
        assert all(formatting.progress_text(Progress(stage=stage), SAY) for stage in Stage)

    def test_what_is_sent_per_step_is_small(self) -> None:
        long = Progress(stage=Stage.DENOISING, step=99, total=100, remaining_s=9e4, elapsed_s=1)
        assert len(formatting.event_html(long, SAY).encode()) < 300

    def test_the_bar_fills_with_time_and_wanders_when_nothing_is_known(self) -> None:
        known = Progress(stage=Stage.DENOISING, elapsed_s=1, remaining_s=3)
        assert 'value="0.250"' in formatting.event_html(known, SAY)
        assert "value" not in formatting.event_html(Progress(stage=Stage.ENCODING), SAY)

    def test_a_finished_video_is_summed_up_with_its_notes(self) -> None:
        assert formatting.summary(VIDEO, SAY) == (
            "14 frames, 512 × 288, 7 fps, 2.0 s. Made with svd-nano. fps was held to 30."
        )

    def test_errors_are_shown_in_their_own_words_and_escaped(self) -> None:
        html = formatting.event_html(
            Failed(OutOfMemory("memory_too_small_to_load", model="<x>")), SAY
        )
        assert "to load &lt;x&gt;." in html
        assert 'role="alert"' in html

    @pytest.mark.parametrize(
        ("seconds", "text"), [(0.42, "0.4 s"), (59.4, "59 s"), (125, "2 min 5 s"),
                              (9.97, "10 s"), (3780, "1 h 3 min")],
    )  # fmt: skip
    def test_durations(self, seconds: float, text: str) -> None:
        assert formatting.duration(seconds, SAY) == text

    def test_the_demonstration_model_is_called_what_it_is(self) -> None:
        assert "Small demo model" in formatting.device_html(READY, SAY)
        assert "svd-nano</b> on CPU, 2 cores" in formatting.device_html(READY, SAY)

    def test_other_models_name_their_licence_with_a_link(self) -> None:
        model = CHECKPOINTS["svd-xt"]
        html = formatting.device_html(replace(READY, checkpoint=model, state="loading"), SAY)
        assert f'href="{model.licence_url}"' in html
        assert model.licence in html
        assert "loading" in html
        assert "demo model" not in html

    def test_a_cluster_says_how_many_workers_it_has_or_that_it_waits(self) -> None:
        three = replace(READY, device="3 x NVIDIA L4, 24 GB", workers=3)
        assert "svd-nano</b> on 3 x NVIDIA L4, 24 GB" in formatting.device_html(three, SAY)
        waiting = replace(READY, device="", state="loading", workers=0)
        assert "svd-nano</b> · waiting for a GPU machine" in formatting.device_html(waiting, SAY)
        loading = formatting.device_html(replace(waiting, workers=1), SAY)
        assert "waiting" not in loading

    def test_a_notice_is_escaped_and_nothing_is_shown_without(self) -> None:
        assert "&lt;b&gt;" in formatting.notice_html(replace(READY, notice="<b>"), SAY)
        assert formatting.notice_html(READY, SAY) == ""


def test_examples_are_the_photos_that_have_a_video(tmp_path: Path) -> None:
    found = find_examples(examples(tmp_path))
    assert [example.name for example in found] == ["Blue door", "Cat"]
    assert find_examples(tmp_path / "nowhere") == []


def test_the_endpoint_takes_every_parameter_and_documents_it() -> None:
    function = endpoint(None)  # type: ignore[arg-type]
    given_by_gradio = ("request", "progress")
    names = [n for n in inspect.signature(function).parameters if n not in given_by_gradio]
    assert names == ["image", *(field.name for field in fields(VideoParams))]
    assert all(f"\n    {name}: " in (function.__doc__ or "") for name in names)


def test_only_generate_is_public(client: Client) -> None:
    api = client.view_api(return_format="dict")
    assert list(api["named_endpoints"]) == ["/generate"]
    assert api["unnamed_endpoints"] == {}


def test_what_a_client_asks_for_reaches_the_core(
    client: Client, served: Served, a_photo: Path
) -> None:
    asked: dict[str, Any] = {
        "seed": 4294967295, "motion_bucket_id": 40, "noise_aug_strength": 2.5, "fps": 12,
        "playback_fps": 24, "num_frames": 9, "num_inference_steps": 3, "min_guidance_scale": 1.5,
        "max_guidance_scale": 2.5, "decode_chunk_size": 2, "orientation": "square", "fit": "pad",
        "focus_x": 0.25, "focus_y": 1, "speed": "fast", "model": "svd-nano",
    }  # fmt: skip
    video, seed, summary = client.predict(image=handle_file(a_photo), **asked, api_name="/generate")
    assert served.work.requests[-1].params == VideoParams(**asked)
    assert seed == 4294967295
    assert Path(video).read_bytes()[4:8] == b"ftyp"
    assert "8 frames" in summary


def test_a_client_that_asks_for_another_checkpoint_is_told_what_there_is(
    client: Client, served: Served, a_photo: Path
) -> None:
    made = len(served.work.requests)
    with pytest.raises(AppError, match="not have the model svd-xt. Choose one of these: svd-nano"):
        client.predict(image=handle_file(a_photo), model="svd-xt", api_name="/generate")
    assert len(served.work.requests) == made


def test_what_a_client_leaves_out_takes_the_defaults_and_a_fresh_seed(
    client: Client, served: Served, a_photo: Path
) -> None:
    seeds = set()
    for _ in range(2):
        seeds.add(client.predict(image=handle_file(a_photo), api_name="/generate")[1])
        params = served.work.requests[-1].params
        assert params == VideoParams(seed=params.seed)
    assert len(seeds) == 2


@pytest.mark.parametrize("name", ["sixteen.png", "palette.gif", "photo.heic"])
def test_uploads_reach_the_core_byte_for_byte(
    client: Client, served: Served, tmp_path: Path, name: str
) -> None:
    import pillow_heif

    path = tmp_path / name
    if name == "sixteen.png":
        Image.new("I;16", (64, 64), 40_000).save(path)
    elif name == "palette.gif":
        Image.new("P", (64, 64), 3).save(path)
    else:
        pillow_heif.from_pillow(Image.new("RGB", (64, 64), "red")).save(path)
    client.predict(image=handle_file(path), api_name="/generate")
    assert served.work.requests[-1].image == path.read_bytes()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"motion_bucket_id": 999}, "motion_bucket_id must be a whole number from 1 to 255"),
        ({"motion_bucket_id": "fast"}, "motion_bucket_id must be a whole number"),
        ({"noise_aug_strength": -1}, "noise_aug_strength must be a number from 0 to 10"),
        ({"fps": 12.5}, "fps must be a whole number from 1 to 100, not 12.5"),
        ({"seed": 2**32}, "seed must be a whole number from 0 to 4294967295"),
        ({"num_frames": 0}, "num_frames must be a whole number from 2 to 50, not 0"),
        ({"fit": "stretch"}, "fit must be one of crop, pad, not 'stretch'"),
        ({"image": None}, "There is no photo yet"),
    ],
)
def test_wrong_values_come_back_as_a_sentence(
    client: Client, a_photo: Path, given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Exception, match=sentence):
        client.predict(**{"image": handle_file(a_photo)} | given, api_name="/generate")


@pytest.mark.parametrize(
    "content", [b"", b"just text", b"<svg xmlns='http://www.w3.org/2000/svg'/>"]
)
def test_what_is_no_picture_comes_back_as_a_sentence(
    client: Client, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(Exception, match=r"^[A-Z].* [a-z].*\.$"):
        client.predict(image=handle_file(path), api_name="/generate")


def test_a_full_queue_is_said_to_be_full(tmp_path: Path, a_photo: Path) -> None:
    work = FakeWork(tmp_path)
    settings = Settings(data_dir=tmp_path, max_queue=1)
    with serve(tmp_path, work, settings=settings) as served, work.held():
        client = Client(served.url, verbose=False, analytics_enabled=False)
        for _ in range(2):
            served.queue.submit(VideoRequest(b"", VideoParams()))
            while not work.requests:
                time.sleep(0.01)
        with pytest.raises(Exception, match="queue is full"):
            client.predict(image=handle_file(a_photo), api_name="/generate")


class TestRefusals:
    @pytest.mark.parametrize(
        "path",
        [
            "/gradio_api/file=https://example.org/x",
            "/gradio_api/file=HTTP://127.0.0.1:1/x",
            "/gradio_api/file=%68ttp%3A//127.0.0.1:1/x",
            "/gradio_api/file%3Dhttp://127.0.0.1:1/x",
            "/gradio_api/file/http://127.0.0.1:1/x",
            "/gradio_api/file=/etc/passwd",
            "/gradio_api/file=app.py",
            "/gradio_api/file=/proc/self/environ",
        ],
    )
    def test_files_and_addresses_of_others(self, served: Served, path: str) -> None:
        assert status(served.url, "GET", path) == 403

    def test_a_body_without_end(self, served: Served) -> None:
        path = "/gradio_api/call/v2/generate"
        assert status(served.url, "POST", path, length=MAX_BODY + 1) == 413

    def test_an_upload_beyond_the_limit(self, client: Client, tmp_path: Path) -> None:
        path = tmp_path / "big.png"
        path.write_bytes(b"0" * (20 * 2**20 + 1))
        with pytest.raises(Exception, match="413|limit|size|large"):
            client.predict(image=handle_file(path), api_name="/generate")

    def test_no_input_fetches_an_address(self, served: Served) -> None:
        """Stock components download what looks like a file with an address, in any field."""
        inputs = {i for fn in served.page.fns.values() for i in fn.inputs if not i.stateful}
        assert len(inputs) > len(fields(VideoParams))
        for block in inputs:
            for url in ("http://127.0.0.1:1/x.png", "HTTPS://example.org/x.png"):
                with pytest.raises(gr.Error, match="fetches no addresses"):
                    asyncio.run(block.async_move_resource_to_block_cache(url))

    def test_an_address_in_place_of_the_photo(self, client: Client) -> None:
        with pytest.raises(Exception, match="fetches no addresses"):
            client.predict(image=handle_file("http://127.0.0.1:1/x.png"), api_name="/generate")


def test_login_closes_the_page(tmp_path: Path, a_photo: Path) -> None:
    settings = Settings(data_dir=tmp_path, page_auth="ada:secret")
    with serve(tmp_path, settings=settings) as served:
        assert status(served.url, "GET", "/config") == 401
        assert status(served.url, "POST", "/gradio_api/call/v2/generate") == 401
        assert status(served.url, "POST", "/gradio_api/mcp/") in (404, 405)
        client = Client(served.url, auth=("ada", "secret"), verbose=False, analytics_enabled=False)
        assert client.predict(image=handle_file(a_photo), api_name="/generate")


def test_the_page_starts_without_mcp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server.launch_options(Settings(), tmp_path)["mcp_server"] is True
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    assert server.launch_options(Settings(), tmp_path)["mcp_server"] is False


def test_mcp_offers_one_documented_tool_that_works(served: Served, a_photo: Path) -> None:
    async def talk() -> tuple[list[Any], Any, Any]:
        url = f"{served.url}/gradio_api/mcp/"
        async with (
            streamable_http_client(url) as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            data = "data:image/png;base64," + base64.b64encode(a_photo.read_bytes()).decode()
            asked = {"image": data, "motion_bucket_id": 77, "seed": 5}
            good = await session.call_tool(tools[0].name, asked)
            return tools, good, await session.call_tool(tools[0].name, asked | {"fps": 0})

    tools, good, bad = asyncio.run(talk())
    (tool,) = tools
    assert "Turn a photo into a short video" in tool.description
    described = tool.inputSchema["properties"]
    assert all(described[field.name]["description"] for field in fields(VideoParams))
    assert not good.isError
    assert served.work.requests[-1].params.motion_bucket_id == 77
    assert served.work.requests[-1].image == a_photo.read_bytes()
    assert "/gradio_api/file=" in json.dumps([item.text for item in good.content])
    assert bad.isError
    assert "fps must be a whole number from 1 to 100, not 0." in bad.content[0].text


class TestWatching:
    @pytest.fixture
    def screen(self) -> Player:
        with gr.Blocks():
            return Player(
                line=gr.HTML(), preview=gr.HTML(), video=gr.Video(), result=gr.Column(),
                summary=gr.HTML(), generate=gr.Button(), drafts=gr.Button(), stop=gr.Button(),
                current=gr.State([]), to_follow=gr.State([]), playing=gr.State(None),
                controls={"seed": gr.Textbox(), "fps": gr.Slider(), "interpolation": gr.Radio()},
            )  # fmt: skip

    @pytest.fixture
    def work(self, tmp_path: Path) -> FakeWork:
        return FakeWork(tmp_path)

    @pytest.fixture
    def backend(self, work: FakeWork, tmp_path: Path) -> Iterator[Backend]:
        with worker_queue(tmp_path, work) as queue:
            keep = retention(queue, tmp_path)
            yield Backend(queue, lambda: READY, keep.results, keep.remove)

    def test_the_end_shows_the_video_and_writes_the_seed_back(
        self, screen: Player, backend: Backend, a_photo: Path
    ) -> None:
        job = backend.submit(a_photo.read_bytes(), {"seed": 9})
        *_, last = screen.follow(job, SAY)
        assert last[screen.controls["seed"]] == "9"
        assert last[screen.video]["value"].is_file()
        assert last[screen.generate].interactive
        assert not last[screen.stop].interactive

    def test_the_first_change_comes_at_once(
        self, screen: Player, backend: Backend, work: FakeWork, a_photo: Path
    ) -> None:
        with work.held():
            for before in ("", "Waiting · 1 video ahead of yours"):
                job = backend.submit(a_photo.read_bytes(), {})
                first = screen.begin([job], SAY)
                assert before in first[screen.line]
                assert before in next(screen.follow(job, SAY))[screen.line]
                assert first[screen.stop].interactive
                assert not first[screen.generate].interactive
                assert first[screen.current] == [job.id]
                while not work.requests:
                    time.sleep(0.01)

    def test_leaving_does_not_stop_the_job_and_coming_back_finds_it(
        self, screen: Player, backend: Backend, a_photo: Path
    ) -> None:
        visitor = backend.session_ids.ensure_id(None)
        watching = screen.follow(backend.submit(a_photo.read_bytes(), {}, visitor), SAY)
        next(watching)
        watching.close()  # type: ignore[attr-defined]  # it is a generator
        (job,) = backend.jobs(visitor)
        *_, last = screen.follow(job, SAY)
        assert last[screen.video]["value"].is_file()

    def test_jobs_are_their_visitors_alone(self, backend: Backend, a_photo: Path) -> None:
        ann, bob = backend.session_ids.ensure_id(None), backend.session_ids.ensure_id(None)
        job = backend.submit(a_photo.read_bytes(), {}, ann)
        assert backend.job(job.id, ann) is not None
        assert backend.job(job.id, bob) is None
        assert backend.jobs(bob) == []
        assert ann not in job.options.owner

    @pytest.mark.parametrize("card", [None, "", "0" * 32, "0" * 64, "G" * 64, 7, {"a": 1}, ["x"]])
    def test_who_is_no_visitor_shares_nothing(
        self, backend: Backend, a_photo: Path, card: object
    ) -> None:
        job = backend.submit(a_photo.read_bytes(), {}, card)
        assert job.options.owner == ""
        assert backend.jobs(card) == []
        assert backend.job(job.id, card) is None
        assert backend.session_ids.ensure_id(card) != backend.session_ids.ensure_id(card)

    @pytest.mark.parametrize("job_id", [None, "", "0" * 32, 7, {"a": 1}, ["x"]])
    def test_an_id_that_means_nothing_finds_nothing(self, backend: Backend, job_id: object) -> None:
        assert backend.job(job_id, backend.session_ids.ensure_id(None)) is None

    def test_a_stopped_job_says_how_far_it_came(
        self, screen: Player, backend: Backend, work: FakeWork, a_photo: Path
    ) -> None:
        seen: deque[Changes] = deque(maxlen=1)
        with work.held():
            job = backend.submit(a_photo.read_bytes(), {})
            for change in screen.follow(job, SAY):
                seen.append(change)
                if "step 2 of 8" in change[screen.line]:
                    job.cancel()
        assert "Stopped at step 2 of 8" in seen[0][screen.line]
        assert screen.preview not in seen[0]
        assert seen[0][screen.generate].interactive
        assert job.last == Stopped()

    def test_a_refusal_is_said_on_top_and_beside_its_field(self, screen: Player) -> None:
        changes = screen.show_error(InvalidRequest("link_repeats_setting", field="fps"), SAY)
        sentence = "The link has “FPS” more than once. Remove all but one."
        assert sentence in changes[screen.line]
        assert changes[screen.controls["fps"]]["info"] == sentence
        assert changes[screen.generate].interactive

    def test_a_failure_is_shown_and_said(
        self, screen: Player, a_photo: Path, tmp_path: Path
    ) -> None:
        def work(job_id: str, request: VideoRequest) -> Generator[Event]:
            yield Progress(stage=Stage.ENCODING)
            raise OutOfMemory("memory_too_small_to_load", model="svd-nano")

        with inline_queue(tmp_path, work) as queue:
            backend = plain_backend(queue, tmp_path)
            *_, last = screen.follow(backend.submit(a_photo.read_bytes(), {}), SAY)
        assert "Close other programs" in last[screen.line]
        assert last[screen.generate].interactive

    def test_any_queue_will_do(self, screen: Player, a_photo: Path, tmp_path: Path) -> None:
        video = replace(VIDEO, path=tmp_path / "x.mp4")

        def work(job_id: str, request: VideoRequest) -> Generator[Event]:
            yield Progress(stage=Stage.DENOISING, step=1, total=1)
            yield Succeeded(video)

        with inline_queue(tmp_path, work) as queue:
            job = plain_backend(queue, tmp_path).submit(a_photo.read_bytes(), {})
            *_, last = screen.follow(job, SAY)
            assert last[screen.video]["value"] == video.path
            assert queue.get(job.id).last == Succeeded(video)


class TestSpeeds:
    """Which speeds there are is up to the server."""

    def test_turbo_without_weights_is_refused_before_it_waits(
        self, tmp_path: Path, a_photo: Path
    ) -> None:
        with worker_queue(tmp_path, FakeWork(tmp_path)) as queue:
            with pytest.raises(InvalidRequest, check=has_code("turbo_unavailable")) as refused:
                plain_backend(queue, tmp_path).submit(a_photo.read_bytes(), {"speed": "turbo"})
            assert refused.value.field == "speed"
            able = replace(plain_backend(queue, tmp_path), acceleration=WITH_TURBO)
            assert able.submit(a_photo.read_bytes(), {"speed": "turbo"}).params

    @pytest.mark.parametrize(
        ("acceleration", "words"),
        [(AccelerationConfig(), ["exact", "fast"]), (WITH_TURBO, ["exact", "fast", "turbo"])],
    )
    def test_the_page_offers_what_can_be_done(
        self, tmp_path: Path, acceleration: AccelerationConfig, words: list[str]
    ) -> None:
        with front_queue(tmp_path) as queue:
            backend = replace(plain_backend(queue, tmp_path), acceleration=acceleration)
            page = build_page(backend, tmp_path, 1)
        (dial,) = (block for block in page.blocks.values() if block.elem_id == "speed")
        assert [word for _, word in dial.choices] == words  # type: ignore[attr-defined]
        (hint,) = (h for h in ("speed_hint", "speed_two_hint") if f"svd_{h}" in dial.info)  # type: ignore[attr-defined]
        assert ("Turbo" in SAY(hint)) == ("turbo" in words)


def plain_backend(queue: JobQueue, folder: Path) -> Backend:
    return Backend(queue, lambda: READY, ResultStore(folder), lambda _: None)


def status(url: str, method: str, path: str, length: int = 2) -> int:
    """HTTP status of a request whose path is sent exactly as given."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=10)
    connection.putrequest(method, path, skip_accept_encoding=True)
    if method == "POST":
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(length))
    connection.endheaders(b"{}" if method == "POST" and length == 2 else None)
    found = connection.getresponse().status
    connection.close()
    return found


def test_the_page_itself_is_served(served: Served) -> None:
    with urllib.request.urlopen(served.url) as page:
        assert b"Stable Video Diffusion" in page.read()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{served.url}/no/such/path")


@pytest.mark.skipif(sys.platform == "win32", reason="the system counts no wake-ups of a process")
def test_a_page_that_nobody_uses_hardly_wakes(served: Served) -> None:
    import resource

    def wakes() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw

    begun, before = time.monotonic(), wakes()
    time.sleep(2)
    assert (wakes() - before) / (time.monotonic() - begun) < 300  # Gradio left alone: 1,100
