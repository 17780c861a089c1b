"""The fal API over plain HTTP: every rule of the wire contract that a client relies on."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.messages import sections
from svd_core.settings import Settings
from tests.fakes.engines import READY, SQUARE, photo
from tests.fakes.fal_server import KEY, FalServer, fal_server
from tests.fakes.work import FakeWork
from tests.web.test_safe_http import listening

APP = "fal-ai/stable-video"
OTHER = {"Authorization": "Key bob:other"}


@pytest.fixture
def api(server: FalServer) -> Iterator[httpx.Client]:
    """Speaks for the key `ann`."""
    with client_of(server) as found:
        yield found


@contextmanager
def client_of(server: FalServer, **headers: str) -> Iterator[httpx.Client]:
    own = {"Authorization": f"Key {KEY}"} | headers
    with httpx.Client(base_url=server.url, headers=own, timeout=30) as found:
        yield found


def submit(api: httpx.Client, uri: str, query: str = "", **headers: str) -> dict[str, Any]:
    answer = api.post(f"/queue/{APP}{query}", json={"image_url": uri}, headers=headers)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def finish(api: httpx.Client, request_id: str) -> dict[str, Any]:
    """Poll until it is COMPLETED."""
    for _ in range(300):
        answer = api.get(f"/queue/{APP}/requests/{request_id}/status?logs=1")
        told: dict[str, Any] = answer.json()
        assert answer.status_code == (200 if told["status"] == "COMPLETED" else 202)
        if told["status"] == "COMPLETED":
            return told
        time.sleep(0.02)
    raise AssertionError(told)


def result(api: httpx.Client, request_id: str) -> httpx.Response:
    return api.get(f"/queue/{APP}/requests/{request_id}")


# The queue.


def test_a_request_from_submit_to_video(server: FalServer, api: httpx.Client, uri: str) -> None:
    told = submit(api, uri)
    job = told["request_id"]
    url = f"{server.url}/queue/{APP}/requests/{job}"
    assert told == {
        "status": "IN_QUEUE",
        "request_id": job,
        "gateway_request_id": job,
        "response_url": url,
        "status_url": f"{url}/status",
        "cancel_url": f"{url}/cancel",
        "queue_position": 0,
    }
    end = finish(api, job)
    assert end["response_url"] == url
    assert end["metrics"]["inference_time"] >= 0
    assert "error" not in end
    answer = result(api, job)
    assert answer.status_code == 200
    assert answer.headers["x-fal-request-id"] == job
    body = answer.json()
    assert set(body) == {"video", "seed"}
    video = httpx.get(body["video"]["url"])  # the address is enough, without a key
    assert body["video"] == {
        "url": f"{server.url}/cdn/videos/{body['video']['url'].split('/')[-2]}/{job}.mp4",
        "content_type": "video/mp4",
        "file_name": f"{job}.mp4",
        "file_size": len(video.content),
    }
    assert video.headers["content-type"] == "video/mp4"
    assert video.content[4:8] == b"ftyp"
    assert 0 <= body["seed"] < 2**32
    assert api.get(f"/queue/{APP}/requests/{job}/response").json() == body


def test_what_is_asked_for_reaches_the_model(api: httpx.Client, work: FakeWork, uri: str) -> None:
    body = {
        "image_url": uri, "seed": 7, "motion_bucket_id": 40, "cond_aug": 0.1, "fps": 12,
        "playback_fps": 30, "num_frames": 20, "fit": "pad", "prompt": "is ignored",
    }  # fmt: skip
    job = api.post(f"/queue/{APP}", json=body).json()["request_id"]
    finish(api, job)
    params = work.requests[-1].params
    assert (params.seed, params.motion_bucket_id, params.noise_aug_strength) == (7, 40, 0.1)
    assert (params.fps, params.playback_fps, params.num_frames, params.fit) == (12, 30, 20, "pad")
    assert result(api, job).json()["seed"] == 7


def test_defaults_are_those_of_fal(api: httpx.Client, work: FakeWork, uri: str) -> None:
    finish(api, submit(api, uri)["request_id"])
    params = work.requests[-1].params
    assert (params.motion_bucket_id, params.noise_aug_strength, params.fps) == (127, 0.02, 25)


def test_states_come_in_order_with_growing_logs(
    api: httpx.Client, work: FakeWork, uri: str
) -> None:
    with work.held():
        first, second = submit(api, uri)["request_id"], submit(api, uri)["request_id"]
        for _ in range(200):
            running = api.get(f"/queue/{APP}/requests/{first}/status?logs=true")
            if running.json()["status"] == "IN_PROGRESS" and len(running.json()["logs"]) == 2:
                break
            time.sleep(0.02)
        assert running.status_code == 202
        assert [line["message"] for line in running.json()["logs"]] == [
            "Denoising: step 1 of 3",
            "Denoising: step 2 of 3",
        ]
        waiting = api.get(f"/queue/{APP}/requests/{second}/status?logs=1")
        assert waiting.status_code == 202
        assert (waiting.json()["status"], waiting.json()["queue_position"]) == ("IN_QUEUE", 1)
        assert waiting.json()["logs"] == []
        for value in ("0", "false", ""):
            quiet = api.get(f"/queue/{APP}/requests/{first}/status?logs={value}").json()
            assert quiet["logs"] is None
        early = result(api, first)
        assert early.status_code == 400
        assert early.json() == {"detail": "Request is still in progress"}
    lines = finish(api, first)["logs"]
    assert [line["message"] for line in lines][:3] == [
        f"Denoising: step {step} of 3" for step in (1, 2, 3)
    ]
    assert {(line["level"], line["source"]) for line in lines} == {("INFO", "USER")}
    assert sorted(line["timestamp"] for line in lines) == [line["timestamp"] for line in lines]
    finish(api, second)


def events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line[6:])


def test_a_stream_tells_each_line_once(api: httpx.Client, work: FakeWork, uri: str) -> None:
    with work.held():
        job = submit(api, uri)["request_id"]
        path = f"/queue/{APP}/requests/{job}/status/stream"
        with api.stream("GET", f"{path}?logs=1") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["x-fal-request-id"] == job
            told = []
            for event in events(answer):
                told.append(event)
                if event["status"] == "IN_PROGRESS":
                    work.go.set()
    assert told[-1]["status"] == "COMPLETED"
    states = [event["status"] for event in told]
    assert states == sorted(states, key=["IN_QUEUE", "IN_PROGRESS", "COMPLETED"].index)
    lines = [line["message"] for event in told for line in event["logs"]]
    assert lines == [line["message"] for line in finish(api, job)["logs"]]
    with api.stream("GET", path) as again:
        (event,) = events(again)
        assert (event["status"], event["logs"]) == ("COMPLETED", None)


def test_a_stream_shows_that_it_is_alive(
    api: httpx.Client, work: FakeWork, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svd_core.web.fal.job_routes.KEEPALIVE_S", 0.1)
    with work.held():
        job = submit(api, uri)["request_id"]
        with api.stream("GET", f"/queue/{APP}/requests/{job}/status/stream") as answer:
            comments = (line for line in answer.iter_lines() if line.startswith(":"))
            assert next(comments) == ": still here"
            assert next(comments) == ": still here"
    finish(api, job)


def test_a_client_that_leaves_its_stream_loses_nothing(
    api: httpx.Client, work: FakeWork, uri: str
) -> None:
    with work.held():
        job = submit(api, uri)["request_id"]
        with api.stream("GET", f"/queue/{APP}/requests/{job}/status/stream") as answer:
            next(events(answer))
    assert finish(api, job)["status"] == "COMPLETED"
    assert result(api, job).status_code == 200


def test_low_ones_wait_for_normal_ones(api: httpx.Client, work: FakeWork, uri: str) -> None:
    with work.held():
        first = submit(api, uri)["request_id"]
        low = submit(api, uri, **{"x-fal-queue-priority": "low"})["request_id"]
        normal = submit(api, uri, **{"x-fal-queue-priority": "normal"})["request_id"]
        status = api.get(f"/queue/{APP}/requests/{low}/status").json()
        assert (status["status"], status["queue_position"]) == ("IN_QUEUE", 2)
    for job in (first, low, normal):
        finish(api, job)


def test_a_start_timeout(api: httpx.Client, work: FakeWork, uri: str) -> None:
    with work.held():
        first = submit(api, uri)["request_id"]
        late = submit(api, uri, **{"x-fal-request-timeout": "0.3"})["request_id"]
        end = finish(api, late)
        assert (end["error_type"], end["error_code"]) == ("request_timeout", "start_timeout")
        answer = result(api, late)
        assert answer.json()["error_code"] == "start_timeout"
        assert answer.status_code == 504
        assert answer.headers["x-fal-request-timeout-type"] == "user"
        assert (
            answer.headers["x-fal-error-type"] == answer.json()["error_type"] == "request_timeout"
        )
        assert answer.headers["x-fal-request-id"] == late
    finish(api, first)


def test_a_full_queue(tmp_path: Path, uri: str) -> None:
    settings = Settings(data_dir=tmp_path, api_keys="ann:s3cret,bob:other", max_queue=3,
                        max_queue_per_key=2)  # fmt: skip
    with fal_server(tmp_path, settings) as server, client_of(server) as api:
        assert isinstance(server.work, FakeWork)
        with server.work.held():
            jobs = [submit(api, uri)["request_id"] for _ in range(1)]
            while api.get(f"/queue/{APP}/requests/{jobs[0]}/status").json()["status"] == "IN_QUEUE":
                time.sleep(0.02)
            jobs += [submit(api, uri)["request_id"]]
            body = {"image_url": uri}
            refused = api.post(f"/queue/{APP}?fal_max_queue_length=0", json=body)
            assert refused.status_code == 429
            jobs += [submit(api, uri, "?fal_max_queue_length=1")["request_id"]]
            own = api.post(f"/queue/{APP}", json=body)
            assert own.status_code == 429
            assert own.json()["error_type"] == "concurrent_requests_limit"
            assert own.json()["error_code"] == "owner_queue_full"
            assert own.headers["x-fal-needs-retry"] == "1"
            assert api.post(f"/run/{APP}", json=body).status_code == 429
            assert api.post(f"/queue/{APP}", json=body, headers=OTHER).status_code == 200
            full = api.post(f"/queue/{APP}", json=body, headers=OTHER)
            assert (full.status_code, full.json()["error_code"]) == (429, "queue_full")
            assert api.get("/health").json()["queue_length"] == 3


def cancel(api: httpx.Client, job: str) -> tuple[int, dict[str, Any]]:
    answer = api.put(f"/queue/{APP}/requests/{job}/cancel")
    return answer.status_code, answer.json()


def test_cancel(api: httpx.Client, work: FakeWork, uri: str) -> None:
    with work.held():
        running, waiting = submit(api, uri)["request_id"], submit(api, uri)["request_id"]
        assert cancel(api, waiting) == (202, {"status": "CANCELLATION_REQUESTED"})
        end = finish(api, waiting)
        assert (end["error_type"], end["metrics"]) == ("client_cancelled", {})
        assert cancel(api, waiting) == (400, {"status": "ALREADY_COMPLETED"})
        assert cancel(api, running) == (202, {"status": "CANCELLATION_REQUESTED"})
        assert finish(api, running)["logs"][-1]["message"] == "Cancelled"
    for job in (waiting, running):
        answer = result(api, job)
        assert answer.status_code == 499
        assert answer.headers["x-fal-error-type"] == "client_cancelled"
        assert answer.json()["error_type"] == "client_cancelled"
        assert isinstance(answer.json()["detail"], str)
    done = submit(api, uri)["request_id"]
    finish(api, done)
    assert cancel(api, done) == (400, {"status": "ALREADY_COMPLETED"})
    body = {"headers": {"Content-Type": "application/json"}, "content": b"{}"}
    assert api.put(f"/queue/{APP}/requests/{done}/cancel", **body).status_code == 400  # type: ignore[arg-type]


@pytest.mark.parametrize("job", ["0" * 32, "764cabcf-b745-4b3e-ae38-1200304cf45b", "x", "%2e%2e"])
def test_an_unknown_request(api: httpx.Client, job: str) -> None:
    url = f"/queue/{APP}/requests/{job}"
    answers = [
        api.get(url),
        api.get(f"{url}/status"),
        api.get(f"{url}/status/stream"),
        api.put(f"{url}/cancel"),
        api.get(f"{url}/response"),
    ]
    for answer in answers:
        assert (answer.status_code, answer.json()) == (404, {"status": "NOT_FOUND"})


def test_a_request_is_its_own_keys_business(api: httpx.Client, uri: str) -> None:
    job = submit(api, uri)["request_id"]
    finish(api, job)
    url = f"/queue/{APP}/requests/{job}"
    for path in (url, f"{url}/status", f"{url}/status/stream"):
        assert api.get(path, headers=OTHER).json() == {"status": "NOT_FOUND"}
    assert api.put(f"{url}/cancel", headers=OTHER).status_code == 404


def test_every_address_goes_with_a_slash_and_without(api: httpx.Client, uri: str) -> None:
    """And none answers by a redirect, which not every client follows."""
    job = api.post(f"/queue/{APP}/", json={"image_url": uri}).json()["request_id"]
    finish(api, job)
    url = f"/queue/{APP}/requests/{job}"
    for path in (url, f"{url}/status", f"{url}/status/stream", f"{url}/response", "/health",
                 "/docs", "/openapi.json", "/rest/.well-known/jwks.json"):  # fmt: skip
        plain, slash = api.get(path), api.get(f"{path}/")
        assert plain.status_code == slash.status_code == 200, path
    assert api.put(f"{url}/cancel/").status_code == 400
    assert api.post("/rest/storage/upload/initiate/", json={}).status_code == 200
    assert api.post("/rest/tokens/", json={"allowed_apps": ["stable-video"]}).status_code == 201
    assert api.post(f"/run/{APP}/", json={"image_url": uri}).status_code == 200


def test_a_longer_id_may_stand_in_the_address_of_a_request(api: httpx.Client, uri: str) -> None:
    job = submit(api, uri)["request_id"]
    finish(api, job)
    url = f"/queue/{APP}/image-to-video/requests/{job}"
    assert api.get(f"{url}/status").status_code == 200
    assert api.get(url).json() == api.get(f"{url}/response").json() == result(api, job).json()
    assert api.put(f"{url}/cancel").status_code == 400


@pytest.mark.parametrize(
    "path", ["fal-ai/other", "stable-video", "fal-ai/stable-video/text-to-video", "a/stable-video"]
)
def test_other_endpoints_are_not_here(api: httpx.Client, uri: str, path: str) -> None:
    for place in ("queue", "run"):
        answer = api.post(f"/{place}/{path}", json={"image_url": uri})
        assert answer.status_code == 404
        assert answer.json() == {"detail": f"Path /{place}/{path} not found"}


def test_other_methods_are_refused(api: httpx.Client) -> None:
    answer = api.get(f"/queue/{APP}")
    assert (answer.status_code, answer.json()) == (405, {"detail": "Method Not Allowed"})


# Input.


@pytest.mark.parametrize(
    ("body", "field", "kind"),
    [
        ({"fps": 500}, "fps", "less_than_equal"),
        ({"fps": 0}, "fps", "greater_than_equal"),
        ({"fps": 25.5}, "fps", "int_from_float"),
        ({"fps": "fast"}, "fps", "int_parsing"),
        ({"motion_bucket_id": 0}, "motion_bucket_id", "greater_than_equal"),
        ({"motion_bucket_id": 256}, "motion_bucket_id", "less_than_equal"),
        ({"cond_aug": -0.1}, "cond_aug", "greater_than_equal"),
        ({"cond_aug": 10.1}, "cond_aug", "less_than_equal"),
        ({"cond_aug": "nan"}, "cond_aug", "finite_number"),
        ({"seed": -1}, "seed", "greater_than_equal"),
        ({"seed": 2**32}, "seed", "less_than_equal"),
        ({"num_frames": 1}, "num_frames", "greater_than_equal"),
        ({"fit": "stretch"}, "fit", "literal_error"),
        ({"image_url": None}, "image_url", "string_type"),
        ({"image_url": {"type": "Buffer", "data": [1]}}, "image_url", "string_type"),
        ({"image_url": "photo.jpg"}, "image_url", "url_scheme"),
        ({"image_url": "file:///etc/passwd"}, "image_url", "url_scheme"),
        ({"image_url": "data:image/png;base64,%%%"}, "image_url", "image_load_error"),
        ({"image_url": "data:image/png"}, "image_url", "image_load_error"),
        ({"image_url": "data:image/png;base64,aGVsbG8="}, "image_url", "unsupported_image_format"),
        ({"image_url": "data:,hello"}, "image_url", "unsupported_image_format"),
    ],
)
def test_a_wrong_value_is_told_by_the_result(
    api: httpx.Client, uri: str, body: dict[str, Any], field: str, kind: str
) -> None:
    """Submitting goes well, since real workers look at the input; `run` says the same at once."""
    told = api.post(f"/queue/{APP}", json={"image_url": uri} | body)
    assert told.status_code == 200
    end = finish(api, told.json()["request_id"])
    late = result(api, told.json()["request_id"])
    soon = api.post(f"/run/{APP}", json={"image_url": uri} | body)
    for answer in (late, soon):
        assert answer.status_code == 422
        assert "x-fal-request-id" in answer.headers or answer is soon
        (detail,) = answer.json()["detail"]
        assert detail["loc"] == ["body", field]
        assert detail["type"] == kind
        assert detail["url"] == f"https://docs.fal.ai/errors/#{kind}"
        assert detail["msg"]
    assert late.json() == soon.json()
    assert (end["error"], end["error_type"]) == (detail["msg"], kind)
    assert end.get("error_code") == detail.get("code")


ENGLISH = sections("en")

PICTURES = {
    "file_too_large": (b"a" * (20 * 2**20 + 1), {"max_size": 20 * 2**20}),
    "image_too_small": ((31, 40), {"min_width": 32, "min_height": 32}),
    "image_too_large": ((8000, 8000), None),
    "image_load_error": ((32, 400), None),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_why_a_photo_cannot_be_used(api: httpx.Client, tmp_path: Path, kind: str) -> None:
    made, ctx = PICTURES[kind]
    if not isinstance(made, bytes):
        Image.new("L", made).save(tmp_path / "photo.png")  # type: ignore[arg-type]
        made = (tmp_path / "photo.png").read_bytes()
    uri = f"data:image/png;base64,{base64.b64encode(made).decode()}"
    answer = api.post(f"/run/{APP}", json={"image_url": uri})
    assert answer.status_code == 422
    (detail,) = answer.json()["detail"]
    assert (detail["type"], detail.get("ctx")) == (kind, ctx)
    assert detail["code"] in ENGLISH["InvalidImage"]


def test_each_wrong_field_is_told(api: httpx.Client) -> None:
    answer = api.post(f"/run/{APP}", json={"fps": 500, "cond_aug": "x"})
    assert [entry["loc"][-1] for entry in answer.json()["detail"]] == [
        "image_url", "cond_aug", "fps",
    ]  # fmt: skip
    assert answer.json()["detail"][2]["ctx"] == {"le": 100}
    assert answer.json()["detail"][2]["input"] == 500


def test_what_was_sent_comes_back_in_short(api: httpx.Client) -> None:
    answer = api.post(f"/run/{APP}", json={"image_url": "x" * 1_000_000})
    assert len(answer.content) < 1000


@pytest.mark.parametrize("content", [b"", b"{}", b"  "])
def test_a_body_of_nothing_lacks_the_photo(api: httpx.Client, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    told = api.post(f"/queue/{APP}", content=content, headers=headers)
    assert told.status_code == 200
    answer = result(api, told.json()["request_id"])
    assert answer.json()["detail"][0]["type"] == "missing"


@pytest.mark.parametrize(
    "content",
    [b"{", b"nothing", b"{'a': 1}", b'{"a": NaN}', b"\xff\xfe", b"[" * 100_000, b"9" * 10_000],
)
@pytest.mark.parametrize("place", ["queue", "run"])
def test_a_malformed_body_is_refused_at_once(api: httpx.Client, content: bytes, place: str) -> None:
    answer = api.post(f"/{place}/{APP}", content=content)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["type"] == "json_invalid"


@pytest.mark.parametrize("content", [b"[]", b'"text"', b"1", b"null", b"true"])
def test_a_body_that_is_no_object_is_wrong_input(api: httpx.Client, content: bytes) -> None:
    answer = api.post(f"/run/{APP}", content=content)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body"]


def test_half_characters_do_no_harm(api: httpx.Client) -> None:
    answer = api.post(f"/queue/{APP}", content=b'{"image_url": "\\ud800", "\\udfff": 1}')
    assert answer.status_code == 200
    (detail,) = result(api, answer.json()["request_id"]).json()["detail"]
    assert detail["input"] == "\ud800"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-fal-queue-priority", "high"),
        ("x-fal-request-timeout", "soon"),
        ("x-fal-request-timeout", "0.01"),
        ("x-fal-request-timeout", "nan"),
        ("x-fal-request-timeout", "-1"),
        ("x-fal-object-lifecycle-preference", "never"),
        ("x-fal-object-lifecycle-preference", "[]"),
        ("x-fal-object-lifecycle-preference", '{"expiration_duration_seconds": "1"}'),
        ("x-fal-object-lifecycle-preference", '{"initial_acl": {"default": "forbid"}}'),
        ("fal_max_queue_length", "many"),
        ("fal_max_queue_length", "-1"),
        ("fal_webhook", "ftp://example.org"),
        ("fal_webhook", "nowhere"),
    ],
)
def test_a_wrong_wish_is_refused_at_once(
    api: httpx.Client, uri: str, name: str, value: str
) -> None:
    where: dict[str, Any] = {"params" if name.startswith("fal_") else "headers": {name: value}}
    answer = api.post(f"/queue/{APP}", json={"image_url": uri}, **where)
    assert answer.status_code == 400
    assert answer.json()["error_type"] == answer.headers["x-fal-error-type"] == "bad_request"


def test_wishes_of_both_clients_are_understood(
    server: FalServer, api: httpx.Client, uri: str
) -> None:
    own = {
        "x-fal-queue-priority": "normal",
        "x-fal-request-timeout": "30.0",
        "x-fal-runner-hint": "any",
        "x-fal-object-lifecycle-preference": '{"expiration_duration_seconds": 60}',
        "X-Fal-Store-IO": "0",
        "X-Fal-No-Retry": "1",
    }
    job = submit(api, uri, **own)["request_id"]
    options = server.queue.get(job).options
    assert (options.start_timeout_s, options.keep_s, options.owner) == (30, 60, "ann")
    finish(api, job)


def test_a_body_that_is_too_large(api: httpx.Client) -> None:
    with suppress(httpx.WriteError):  # refused while it is still being sent
        answer = api.post(f"/queue/{APP}", content=bytes(33 * 2**20))
        assert answer.status_code == 413


# Photos.


def test_a_photo_at_an_address(api: httpx.Client, tmp_path: Path, work: FakeWork) -> None:
    with listening() as place:
        place.picture = photo(tmp_path / "photo.png").read_bytes()  # type: ignore[attr-defined]
        url = f"http://127.0.0.1:{place.server_port}"
        answer = api.post(f"/run/{APP}", json={"image_url": f"{url}/photo"})
        assert answer.status_code == 200
        assert work.requests[-1].image == place.picture  # type: ignore[attr-defined]
        gone = submit(api, f"{url}/gone?key=s3cret")["request_id"]
        finish(api, gone)
    (detail,) = result(api, gone).json()["detail"]
    assert (detail["loc"], detail["type"]) == (["body", "image_url"], "file_download_error")
    assert "404" in detail["msg"]
    assert "s3cret" not in detail["msg"]


def test_a_slow_host_holds_up_its_own_request_only(api: httpx.Client, uri: str) -> None:
    with listening() as place:
        slow = submit(api, f"http://127.0.0.1:{place.server_port}/slow-body")["request_id"]
        finish(api, submit(api, uri)["request_id"])
        told = api.get(f"/queue/{APP}/requests/{slow}/status").json()
        assert (told["status"], told["queue_position"]) == ("IN_QUEUE", 0)
        assert api.put(f"/queue/{APP}/requests/{slow}/cancel").status_code == 202
        assert result(api, slow).status_code == 499
        place.over.set()  # type: ignore[attr-defined]


def test_addresses_inside_are_refused_unless_switched_on(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, api_keys=f"{KEY}")
    with fal_server(tmp_path, settings) as server, client_of(server) as api:
        answer = api.post(f"/run/{APP}", json={"image_url": "http://127.0.0.1:9/photo.png"})
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["type"] == "file_download_error"
        hook = api.post(f"/queue/{APP}?fal_webhook=http://127.0.0.1:9/", json={"image_url": "x"})
        assert hook.status_code == 400
        own = api.post("/rest/storage/upload/initiate", json={}).json()["file_url"]
        assert api.post(f"/run/{APP}", json={"image_url": own}).status_code == 422


# Run.


def test_run(api: httpx.Client, uri: str) -> None:
    answer = api.post(f"/run/{APP}", json={"image_url": uri, "seed": 3})
    assert answer.status_code == 200
    job = answer.headers["x-fal-request-id"]
    assert answer.json() == result(api, job).json()
    assert answer.json()["seed"] == 3


def test_run_with_a_start_timeout(api: httpx.Client, work: FakeWork, uri: str) -> None:
    with work.held():
        first = submit(api, uri)["request_id"]
        answer = api.post(
            f"/run/{APP}", json={"image_url": uri}, headers={"x-fal-request-timeout": "0.3"}
        )
        assert answer.status_code == 504
        assert answer.headers["x-fal-request-timeout-type"] == "user"
    finish(api, first)


def test_a_job_whose_only_caller_is_gone_is_cancelled(
    server: FalServer, api: httpx.Client, work: FakeWork, uri: str
) -> None:
    with work.held():
        before = len(work.requests)
        with pytest.raises(httpx.ReadTimeout):
            api.post(f"/run/{APP}", json={"image_url": uri}, timeout=0.5)
        assert len(work.requests) == before + 1
        waiting = submit(api, uri)["request_id"]
        for _ in range(200):  # the next one's turn has come, though nothing was let go
            if api.get(f"/queue/{APP}/requests/{waiting}/status").json()["status"] == "IN_PROGRESS":
                break
            time.sleep(0.02)
        else:
            raise AssertionError("the job runs on")
    finish(api, waiting)


def test_run_stream(api: httpx.Client, uri: str) -> None:
    with api.stream("POST", f"/run/{APP}/stream", json={"image_url": uri}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        job = answer.headers["x-fal-request-id"]
        told = list(events(answer))
    assert told[-1] == result(api, job).json()
    steps = [event["progress"].get("step") for event in told[:-1]]
    assert [step for step in steps if step] == [1, 2, 3]
    wrong = api.post(f"/run/{APP}/stream", json={"image_url": uri, "fps": 500})
    assert wrong.status_code == 422


def test_a_stream_of_a_job_that_fails_ends_with_the_reason(api: httpx.Client) -> None:
    body = {"image_url": "data:image/png;base64,aGVsbG8="}
    with api.stream("POST", f"/run/{APP}/stream", json=body) as answer:
        told = list(events(answer))
    assert told[-1]["detail"][0]["type"] == "unsupported_image_format"


def test_leaving_a_run_stream_cancels_its_job(api: httpx.Client, work: FakeWork, uri: str) -> None:
    with work.held():
        with api.stream("POST", f"/run/{APP}/stream", json={"image_url": uri}) as answer:
            job = answer.headers["x-fal-request-id"]
            next(events(answer))
        assert finish(api, job)["error_type"] == "client_cancelled"


def test_a_token_streams_in_place_of_a_key(server: FalServer, api: httpx.Client, uri: str) -> None:
    wish = {"allowed_apps": ["stable-video"], "token_expiration": 120}
    token = api.post("/rest/tokens/", json=wish).json()
    assert isinstance(token, str)
    body = {"image_url": uri}
    url = f"{server.url}/run/{APP}/stream?fal_jwt_token={token}"
    with httpx.stream("POST", url, json=body) as answer:
        assert list(events(answer))[-1]["video"]
        job = answer.headers["x-fal-request-id"]
    assert result(api, job).status_code == 200  # it was made in the name of the key
    for other in (url[:-2], f"{server.url}/run/{APP}?fal_jwt_token={token}",
                  f"{server.url}/queue/{APP}?fal_jwt_token={token}"):  # fmt: skip
        assert httpx.post(other, json=body).status_code == 401
    assert api.post("/rest/tokens/", json={"allowed_apps": ["flux"]}).status_code == 422
    assert api.post("/rest/tokens/", json={"allowed_apps": []}).status_code == 422
    wrong = {"allowed_apps": ["stable-video"], "token_expiration": "x"}
    assert api.post("/rest/tokens/", json=wrong).status_code == 422


# Who may call.


KEYED = [
    ("POST", f"/queue/{APP}"), ("GET", f"/queue/{APP}/requests/x"),
    ("GET", f"/queue/{APP}/requests/x/status"), ("GET", f"/queue/{APP}/requests/x/status/stream"),
    ("PUT", f"/queue/{APP}/requests/x/cancel"), ("POST", f"/run/{APP}"),
    ("POST", f"/run/{APP}/stream"), ("POST", "/rest/storage/upload/initiate"),
    ("POST", "/rest/storage/upload/initiate-multipart"), ("POST", "/rest/storage/auth/token"),
    ("POST", "/rest/tokens/"), ("POST", "/queue/any/other"), ("GET", "/nothing/here"),
    ("POST", "/cdn/files/upload"), ("POST", "/cdn/files/upload/multipart"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), KEYED)
@pytest.mark.parametrize("header", [None, "Key ann:wrong", "Basic abc"])
def test_nothing_goes_without_a_key(
    server: FalServer, method: str, path: str, header: str | None
) -> None:
    headers = {"Authorization": header} if header else {}
    answer = httpx.request(method, f"{server.url}{path}", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error_type"] == "unauthorized"
    assert "s3cret" not in answer.text


def test_cookies_open_nothing_and_none_are_set(server: FalServer) -> None:
    cookies = {"access-token": KEY, "Authorization": f"Key {KEY}"}
    with httpx.Client(cookies=cookies) as client:
        answer = client.get(f"{server.url}/queue/{APP}/requests/x")
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


def test_keys_are_not_logged(
    server: FalServer, api: httpx.Client, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    finish(api, submit(api, uri)["request_id"])
    api.get("/nothing")
    httpx.get(f"{server.url}/nothing", headers={"Authorization": "Key ann:almost"})
    assert "s3cret" not in "".join(r.getMessage() for r in caplog.records if "httpx" not in r.name)


def test_without_keys_and_open_to_others_it_is_closed(tmp_path: Path) -> None:
    with fal_server(tmp_path, Settings(data_dir=tmp_path)) as server:
        for header in ({}, {"Authorization": "Key any:thing"}):
            answer = httpx.post(f"{server.url}/queue/{APP}", headers=header)
            assert answer.status_code == 401
            assert "SVD_API_KEYS" in answer.json()["detail"]
        assert httpx.get(f"{server.url}/health").status_code == 200


def test_without_keys_it_is_open_to_its_own_machine_only(tmp_path: Path, uri: str) -> None:
    settings = Settings(data_dir=tmp_path)
    with fal_server(tmp_path, settings, open_here=True) as server:
        url, body = f"{server.url}/run/{APP}", {"image_url": uri}
        assert httpx.post(url, json=body).status_code == 200
        assert httpx.post(url, json=body, headers={"Authorization": "Key a:b"}).status_code == 200
        near = {"Origin": "http://localhost:3000"}
        allowed = httpx.post(url, json=body, headers=near)
        assert allowed.headers["access-control-allow-origin"] == near["Origin"]
        for foreign in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://localhost.evil.example"},
            {"Host": "evil.example"},
            {"Host": "evil.example:80@127.0.0.1"},
            {"X-Forwarded-For": "203.0.113.9"},
            {"Forwarded": "for=203.0.113.9"},
        ):
            answer = httpx.post(url, json=body, headers=foreign)
            assert answer.status_code == 403, foreign
            assert "access-control-allow-origin" not in answer.headers
            assert httpx.get(f"{server.url}/cdn/files/a/b", headers=foreign).status_code == 403


# Addresses that are given out.


@pytest.mark.parametrize(
    ("host", "base"),
    [("svd.example:81", "http://svd.example:81/fal"), ("[::1]:7", "http://[::1]:7/fal"),
     ('a"b', None), ("a/b", None)],
)  # fmt: skip
def test_addresses_are_those_the_caller_used(
    server: FalServer, api: httpx.Client, uri: str, host: str, base: str | None
) -> None:
    told = submit(api, uri, Host=host)
    assert told["status_url"].startswith(f"{base or server.url}/queue/{APP}/requests/")


def test_addresses_may_be_set(tmp_path: Path, uri: str) -> None:
    settings = Settings(data_dir=tmp_path, api_keys=KEY, public_url="https://svd.example/studio/")
    with fal_server(tmp_path, settings) as server, client_of(server) as api:
        base = "https://svd.example/studio/fal"
        assert submit(api, uri)["response_url"].startswith(f"{base}/queue/")
        answer = api.post(f"/run/{APP}", json={"image_url": uri}).json()
        assert answer["video"]["url"].startswith(f"{base}/cdn/videos/")
        assert api.get("/openapi.json").json()["servers"] == [{"url": base}]


def test_on_a_space_addresses_are_the_spaces(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACE_HOST", "ann-studio.hf.space")
    with fal_server(tmp_path) as server, client_of(server) as api:
        assert submit(api, uri)["status_url"].startswith("https://ann-studio.hf.space/fal/queue/")


def test_a_video_has_an_address_that_cannot_be_guessed(api: httpx.Client, uri: str) -> None:
    answer = api.post(f"/run/{APP}", json={"image_url": uri})
    url, job = answer.json()["video"]["url"], answer.headers["x-fal-request-id"]
    mark = url.split("/")[-2]
    for other in (url.replace(mark, "0" * 32), url.replace(mark, mark[:-1] + "x"),
                  url.replace(job, "0" * 32), url.replace(".mp4", ""), f"{url}x"):  # fmt: skip
        assert httpx.get(other).status_code in (200, 404)
        assert other.endswith(job) or httpx.get(other).status_code == 404
    part = httpx.get(url, headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert httpx.head(url).headers["content-length"] == str(answer.json()["video"]["file_size"])


# Browsers.


def test_a_browser_may_call_from_anywhere_with_a_key(server: FalServer, api: httpx.Client) -> None:
    preflight = httpx.options(
        f"{server.url}/queue/{APP}",
        headers={
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-fal-queue-priority",
        },
    )
    assert preflight.status_code == 200
    assert "x-fal-queue-priority" in preflight.headers["access-control-allow-headers"]
    for method in ("GET", "POST", "PUT"):
        assert method in preflight.headers["access-control-allow-methods"]
    for path in ("/health", "/nothing", f"/queue/{APP}/requests/x"):
        answer = api.get(path, headers={"Origin": "https://app.example"})
        assert answer.headers["access-control-allow-origin"] in ("*", "https://app.example")
        assert "access-control-allow-credentials" not in answer.headers
        exposed = answer.headers["access-control-expose-headers"].lower()
        for name in ("x-fal-request-id", "x-fal-request-timeout-type", "x-fal-error-type", "etag"):
            assert name in exposed


PROXY = {"https://queue.fal.run": "queue", "https://fal.run": "run", "https://rest.fal.ai": "rest"}


def aimed(target: str, **headers: str) -> dict[str, str]:
    return {"x-fal-target-url": target} | headers


def test_the_proxy_answers_for_fals_hosts(api: httpx.Client, uri: str) -> None:
    body = {"image_url": uri, "seed": 5}
    told = api.post("/proxy", json=body, headers=aimed(f"https://queue.fal.run/{APP}")).json()
    job, url = told["request_id"], f"https://queue.fal.run/{APP}/requests/{told['request_id']}"
    finish(api, job)
    status = api.get("/proxy", headers=aimed(f"{url}/status?logs=1"))
    assert status.json()["logs"]
    assert api.get("/proxy/", headers=aimed(url)).json()["seed"] == 5
    assert api.put("/proxy", headers=aimed(f"{url}/cancel")).status_code == 400
    stream = api.get("/proxy", headers=aimed(f"{url}/status/stream"))
    assert stream.headers["content-type"].startswith("text/event-stream")
    run = api.post("/proxy", json=body, headers=aimed(f"https://fal.run/{APP}"))
    assert run.json()["seed"] == 5
    initiate = "https://rest.fal.ai/storage/upload/initiate?storage_type=fal-cdn-v3"
    assert api.post("/proxy", json={}, headers=aimed(initiate)).json()["upload_url"]


@pytest.mark.parametrize(
    "target",
    ["", "https://evil.example/fal-ai/stable-video", "https://queue.fal.run.evil.example/",
     "https://queue.fal.run@evil.example/", "ftp://fal.run/x", "//fal.run/x", "fal.run/x",
     "https://127.0.0.1/", "https://[fal.run/"],
)  # fmt: skip
def test_the_proxy_leads_nowhere_else(api: httpx.Client, target: str) -> None:
    answer = api.get("/proxy", headers=aimed(target))
    assert (answer.status_code, answer.json()["error_type"]) == (400, "bad_request")
    assert api.get("/proxy").status_code == 400


def test_the_proxy_asks_for_a_key_or_a_page_that_is_listed(tmp_path: Path, uri: str) -> None:
    settings = Settings(data_dir=tmp_path, api_keys=KEY, proxy_origins="https://app.example")
    target, body = f"https://fal.run/{APP}", {"image_url": uri}
    with fal_server(tmp_path, settings) as server:
        url = f"{server.url}/proxy"
        listed = {"Origin": "https://app.example"}
        answer = httpx.post(url, json=body, headers=aimed(target, **listed))
        assert answer.status_code == 200
        job = f"https://queue.fal.run/{APP}/requests/{answer.headers['x-fal-request-id']}"
        assert httpx.get(url, headers=aimed(job, **listed)).status_code == 200
        for headers in (
            {},
            {"Origin": "https://other.example"},
            {"Origin": "https://app.example:444"},
            {**listed, "Authorization": "Key ann:wrong"},
        ):
            assert httpx.post(url, json=body, headers=aimed(target, **headers)).status_code == 401
        direct = httpx.post(f"{server.url}/run/{APP}", json=body, headers=listed)
        assert direct.status_code == 401
        with client_of(server) as api:  # jobs of the page belong to its visitor
            assert api.get("/proxy", headers=aimed(job)).status_code == 404


def test_the_header_counts_on_the_proxy_route_only(api: httpx.Client) -> None:
    answer = api.get("/health", headers=aimed(f"https://queue.fal.run/{APP}/requests/x"))
    assert answer.json()["status"] == "ok"


# Information about the server.


def test_health(api: httpx.Client) -> None:
    from svd_core import __version__

    assert api.get("/health").json() == {
        "status": "ok",
        "queue_length": 0,
        "model": "svd-nano",
        "models": ["svd-nano"],
        "device": "CPU, 2 cores",
        "version": __version__,
    }


def test_health_of_a_cluster(tmp_path: Path) -> None:
    waiting = replace(READY, device="", state="loading", workers=0)
    with fal_server(tmp_path / "waiting", status=waiting) as server, client_of(server) as api:
        health = api.get("/health").json()
        assert (health["status"], health["device"]) == ("loading", "waits for a GPU machine")
    three = replace(READY, device="3 x NVIDIA L4, 24 GB", workers=3)
    with fal_server(tmp_path / "three", status=three) as server, client_of(server) as api:
        health = api.get("/health").json()
        assert (health["status"], health["device"]) == ("ok", "3 x NVIDIA L4, 24 GB")


def test_a_request_may_ask_for_one_of_several_checkpoints(tmp_path: Path, uri: str) -> None:
    two = replace(READY, catalog=ModelCatalog((READY.checkpoint, SQUARE)))
    with fal_server(tmp_path, status=two) as server, client_of(server) as api:
        assert api.get("/health").json()["models"] == ["svd-nano", "square"]
        for model in ("square", "svd-nano", None):
            answer = api.post(f"/run/{APP}", json={"image_url": uri, "model": model})
            assert answer.status_code == 200, answer.text
            assert server.work.requests[-1].params.model == model
        made = len(server.work.requests)
        for model in ("svd-xt", "", "../square", "x" * 300):
            refused = api.post(f"/run/{APP}", json={"image_url": uri, "model": model})
            assert refused.status_code == 422
            assert refused.json()["detail"][0]["loc"] == ["body", "model"]
        told = api.post(f"/queue/{APP}", json={"image_url": uri, "model": "svd-xt"}).json()
        finish(api, told["request_id"])
        (entry,) = result(api, told["request_id"]).json()["detail"]
        assert entry["code"] == "model_unknown"
        assert entry["msg"] == (
            "This server does not have the model svd-xt. Choose one of these: svd-nano, square."
        )
        assert len(server.work.requests) == made
        described = api.get("/openapi.json").json()["paths"][f"/run/{APP}"]["post"]
        asked = described["requestBody"]["content"]["application/json"]["schema"]["properties"]
        assert "/health" in asked["model"]["description"]


def test_the_docs_load_nothing_from_elsewhere(server: FalServer, api: httpx.Client) -> None:
    page = api.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text
    for attribute in ("src=", "@import", "url(", "<link"):
        assert attribute not in page.text
    for told in (APP, "motion_bucket_id", "1 to 255", "/queue/fal-ai/stable-video", server.url):
        assert told in page.text


def test_an_unforeseen_error_is_a_500_in_json(
    server: FalServer, api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> int:
        raise ZeroDivisionError("s3cret")

    monkeypatch.setattr(server.queue, "length", broken)
    answer = api.get("/health")
    assert (answer.status_code, answer.json()) == (500, {"detail": "Internal Server Error"})
    assert answer.headers["x-fal-request-id"]  # or clients would take it for a gateway's


def test_200_at_once_are_all_taken_or_refused_and_none_is_lost(tmp_path: Path, uri: str) -> None:
    """From 20 clients; those of each client are made in the order in which it sent them."""
    settings = Settings(data_dir=tmp_path, api_keys=KEY, max_queue=40, max_queue_per_key=40)
    told: dict[int, tuple[int, str]] = {}

    with fal_server(tmp_path, settings) as server:

        def ask(client: int) -> None:
            with client_of(server) as api:
                for number in range(10):
                    seed = client * 100 + number
                    body = {"image_url": uri, "seed": seed}
                    answer = api.post(f"/queue/{APP}", json=body)
                    told[seed] = answer.status_code, answer.json().get("request_id", "")

        with server.work.held():
            threads = [threading.Thread(target=ask, args=(client,)) for client in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        taken = {seed: job for seed, (status, job) in told.items() if status == 200}
        assert len(told) == 200
        assert {status for status, _ in told.values()} == {200, 429}
        assert 40 <= len(taken) <= 41  # one more if the first was begun before the last was sent
        with client_of(server) as api:
            for seed, job in taken.items():
                for _ in range(1000):
                    if api.get(f"/queue/{APP}/requests/{job}/status").status_code == 200:
                        break
                    time.sleep(0.02)
                assert result(api, job).json()["seed"] == seed
        made = [request.params.seed for request in server.work.requests]
    assert sorted(made) == sorted(taken)
    for client in range(20):
        own = [seed for seed in made if seed // 100 == client]
        assert own == sorted(own)
