"""`/openapi.json` against what is served: calls made up from it, and every address there is."""

import base64
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.routing import Route

from svd_core.web.fal import ApiService, build_api
from svd_core.web.fal.openapi import JSON
from tests.fakes.engines import READY, photo
from tests.fakes.fal_server import KEY, FalServer
from tests.fakes.work import FakeWork

OPERATIONS = (
    "submit", "status", "status_stream", "result", "cancel", "run", "run_stream", "initiate",
    "initiate_multipart", "put", "put_part", "complete", "cdn_token", "upload", "begin",
    "put_part_by_id", "complete_by_id", "file", "video", "stream_token", "key_set", "health",
    "openapi", "docs",
)  # fmt: skip

FORM = [status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def schema(server: FalServer) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


NOTHING_TO_GET_WRONG = {"key_set", "health", "docs", "openapi"}


@pytest.mark.hypothesis
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "openapi"])
def test_right_calls_made_up_from_the_description(schema: Any, name: str) -> None:
    """What is stored and permitted no generator guesses; other tests go there."""
    checked(schema, name, GenerationMode.POSITIVE)


@pytest.mark.hypothesis
@pytest.mark.parametrize("name", sorted({*OPERATIONS} - NOTHING_TO_GET_WRONG))
def test_wrong_calls_made_up_from_the_description(schema: Any, name: str) -> None:
    checked(schema, name, GenerationMode.NEGATIVE)


def checked(schema: Any, name: str, mode: GenerationMode) -> None:
    operation = schema.find_operation_by_id(name)

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        # An address of two lines does not get past what is in front of the API, here and in Gradio.
        address = unquote(case.formatted_path)
        assume(address.splitlines() == [address])
        case.call_and_validate(
            checks=[not_a_server_error, *FORM], headers={"Authorization": f"Key {KEY}"}, timeout=20
        )

    check()


def said(schema: Any, name: str, **call: Any) -> httpx.Response:
    """The answer to a call, which is of a form that the description names."""
    case = schema.find_operation_by_id(name).Case(**call)
    answer = case.call(headers={"Authorization": f"Key {KEY}"}, timeout=20)
    case.validate_response(answer, checks=FORM)
    found: httpx.Response = answer
    return found


def test_answers_of_a_request_s_life_are_as_described(
    server: FalServer, schema: Any, tmp_path: Path
) -> None:
    data = base64.b64encode(photo(tmp_path / "photo.png").read_bytes()).decode()
    image = f"data:image/png;base64,{data}"
    assert isinstance(server.work, FakeWork)

    def submit(**headers: str) -> dict[str, Any]:
        told = said(schema, "submit", body={"image_url": image}, media_type=JSON, headers=headers)
        return {"path_parameters": {"request_id": told.json()["request_id"]}}

    def ended(job: dict[str, Any]) -> dict[str, Any]:
        while said(schema, "status", **job, query={"logs": "1"}).status_code == 202:
            time.sleep(0.05)
        return job

    with server.work.held():
        running, waiting = submit(), submit()
        late = ended(submit(**{"x-fal-request-timeout": "0.3"}))
        assert said(schema, "result", **late).status_code == 504
        assert said(schema, "result", **running).status_code == 400
        assert said(schema, "cancel", **waiting).status_code == 202
        assert said(schema, "cancel", **waiting).status_code == 400
        assert said(schema, "result", **waiting).status_code == 499
    assert said(schema, "result", **ended(running)).status_code == 200
    assert said(schema, "status_stream", **running).status_code == 200
    wrong = said(schema, "submit", body={"fps": 500}, media_type=JSON)
    gone = {"path_parameters": {"request_id": wrong.json()["request_id"]}}
    assert said(schema, "status", **gone).json()["error_type"] == "missing"
    assert said(schema, "result", **gone).status_code == 422
    run = said(schema, "run", body={"image_url": image}, media_type=JSON)
    _, mark, file = run.json()["video"]["url"].rsplit("/", 2)
    assert (
        said(schema, "video", path_parameters={"signature": mark, "file": file}).status_code == 200
    )
    assert said(schema, "run_stream", body={"image_url": image}, media_type=JSON).status_code == 200


def test_answers_to_uploads_are_as_described(schema: Any) -> None:
    octets = "application/octet-stream"
    permit = said(schema, "initiate", body={"content_type": "image/png"}, media_type=JSON).json()
    folder, file = permit["file_url"].split("/")[-2:]
    place = {"folder": folder, "file": file}
    token = {"token": permit["upload_url"].partition("token=")[2]}
    whole: dict[str, Any] = {"path_parameters": place, "query": token}
    assert said(schema, "put", **whole, body=b"a", media_type=octets).status_code == 200
    part = {**whole, "path_parameters": {**place, "number": "1"}}
    stored = said(schema, "put_part", **part, body=b"b", media_type=octets)
    parts = {"parts": [stored.json()]}
    assert said(schema, "complete", **whole, body=parts, media_type=JSON).status_code == 200
    assert said(schema, "file", path_parameters=place).content == b"b"
    assert said(schema, "upload", body=b"c", media_type=octets).status_code == 200
    begun = said(schema, "begin").json()
    folder, file = begun["access_url"].split("/")[-2:]
    own = {"folder": folder, "file": file, "upload_id": begun["uploadId"]}
    numbered: dict[str, Any] = {"path_parameters": {**own, "number": "1"}}
    stored = said(schema, "put_part_by_id", **numbered, body=b"d", media_type=octets)
    parts = {"parts": [stored.json()]}
    done = said(schema, "complete_by_id", path_parameters=own, body=parts, media_type=JSON)
    assert done.json()["access_url"] == begun["access_url"]


def test_every_operation_says_whether_it_asks_for_a_key(server: FalServer) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    seen = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            seen.add(operation["operationId"])
            url = f"{server.url}{re.sub('{[a-z_]+}', 'x', path)}"
            answer = httpx.request(method, url)
            assert (answer.status_code == 401) == ("security" in operation), path
            assert ("401" in operation["responses"]) == ("security" in operation), path
    assert seen == {*OPERATIONS}


def test_every_address_is_described_or_another_spelling_of_one_that_is(server: FalServer) -> None:
    api = build_api(ApiService(server.parts, server.queue, lambda: READY))
    shown = {*httpx.get(f"{server.url}/openapi.json").json()["paths"]}
    for route in api.routes:
        assert isinstance(route, Route)
        usual = route.path.rstrip("/").removesuffix("/response").replace("/{rest:path}", "")
        assert usual in shown, route.path
