"""Job submission: from an HTTP request to a job of the queue.

The photo is a data URI, an upload, or a remote URL, which is fetched while the job waits.
"""

import base64
import binascii
from contextlib import suppress
from dataclasses import replace
from json import JSONDecodeError
from typing import Annotated, Any, Literal
from urllib.parse import unquote_to_bytes

from anyio import to_thread
from fastapi import Depends, Header, Query
from starlette.requests import Request

from svd_core.errors import InvalidRequest, InvalidUrl, Unreachable
from svd_core.jobs import Job, JobOptions, RemoteRequest
from svd_core.media.image import MAX_BYTES
from svd_core.params import VideoRequest
from svd_core.web.fal.dependencies import MAX_KEEP_S, ApiContext, ApiService
from svd_core.web.fal.models import InvalidInput, Model, parse, read_input
from svd_core.web.fal.openapi import Owner
from svd_core.web.fal.responses import (
    ApiError,
    Detail,
    detail,
    input_error,
    request_error,
)
from svd_core.web.fal.uploads import UploadStore, upload_name
from svd_core.web.job_metadata import to_memo
from svd_core.web.request_body import parse_json
from svd_core.web.safe_http import MAX_URL

DECODE_CHARS = 2**16
"""Characters of percent-encoded text to decode at once; each takes about 80 bytes."""

MAX_INPUT = 32 * 2**20
"""Bytes of a submit: a photo of 20 MB, a third longer as base64, and the rest."""

MAX_JSON = 2**20
"""Bytes of any other JSON body."""

MAX_INLINE_PARSE = 64 * 1024
"""Bytes of a body that is parsed in the event loop; larger ones are parsed in a thread."""

MIN_TIMEOUT_S = 0.1


async def submit_job(
    service: ApiService, request: Request, options: JobOptions, *, reject: bool
) -> Job:
    """Submit the job of `request`.

    `reject`: enter wrong input as a failed job whose result is the 422, instead of raising
    `InvalidInput`. Raises `ApiError`, and what the queue raises.
    """
    if options.webhook is not None:
        await _check_webhook(service, options.webhook)
    body = await read_json(service.context, request, MAX_INPUT)
    base = service.context.urls.base(request)
    return await to_thread.run_sync(_submit, service, body, options, base, reject)


def _submit(service: ApiService, body: Any, options: JobOptions, base: str, reject: bool) -> Job:
    try:
        image_url, video = _read_request(service, body, options, base)
    except InvalidInput as error:
        if not reject:
            raise
        memo = to_memo(base=base, image_url="", details=error.details)
        return service.queue.reject(error.error, replace(options, memo=memo))
    memo = to_memo(base=base, image_url=image_url[:200], details=[])
    job = service.queue.submit(video, replace(options, memo=memo))
    service.on_submit(job)
    return job


def _read_request(
    service: ApiService, body: Any, options: JobOptions, base: str
) -> tuple[str, VideoRequest | RemoteRequest]:
    """The image URL and the request of a body. Raises `InvalidInput`, and what the queue raises."""
    image_url, params = read_input(body)
    service.queue.ensure_room(options)
    try:
        checkpoint = service.status().catalog.get(params.model)
        params = service.context.costs.limit(params, checkpoint)
    except InvalidRequest as error:
        raise InvalidInput.from_error(error) from None
    photo = resolve_image(image_url, service.context.uploads, base)
    if photo is None:
        return image_url, RemoteRequest(image_url, params)
    return image_url, VideoRequest(photo, params)


def resolve_image(image_url: str, uploads: UploadStore, base: str) -> bytes | None:
    """The photo of a data URI or an upload; None if `image_url` must be fetched.

    `base`: beginning of this server's URLs. Raises `InvalidInput` for an expired upload, for text
    that is not a URL, and for a damaged data URI.
    """
    if image_url[:5].lower() == "data:":
        return _decode_data_uri(image_url)
    if image_url[:8].lower().startswith(("http://", "https://")):
        if len(image_url) > MAX_URL:
            message = f"The address is longer than {MAX_URL} characters. Upload the photo instead."
            ctx = {"max_length": MAX_URL}
            raise InvalidInput([detail("image_url", message, "url_too_long", ctx=ctx)])
        name = upload_name(image_url)
        path = uploads.find(name) if name else None
        if path is not None:
            with path.open("rb") as file:
                return file.read(MAX_BYTES + 1)  # the core refuses one byte too many
        if image_url.startswith(f"{base}/cdn/"):
            message = "There is no such upload, or it has expired. Upload the photo again."
            raise InvalidInput([detail("image_url", message, "file_download_error")])
        return None
    schemes = "'http', 'https' or 'data'"
    message, expected = f"URL scheme should be {schemes}", {"expected_schemes": schemes}
    raise InvalidInput([detail("image_url", message, "url_scheme", ctx=expected, input=image_url)])


def _decode_data_uri(url: str) -> bytes:
    head, comma, data = url.partition(",")
    try:
        if not comma:
            raise ValueError("no comma")
        if not head.lower().rstrip().endswith(";base64"):
            return _unquoted(data)
        for space in " \t\r\n":  # long data URIs are often broken into lines
            data = data.replace(space, "")
        return base64.b64decode(data.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        message = "The data URI cannot be decoded. Write base64 after 'data:image/png;base64,'."
        raise InvalidInput([detail("image_url", message, "image_load_error", input=url)]) from None


def _unquoted(data: str) -> bytes:
    """Percent-decode at most one byte more than a photo may have, in little memory."""
    photo, at = bytearray(), 0
    while at < len(data) and len(photo) <= MAX_BYTES:
        end = at + DECODE_CHARS
        escape = data.rfind("%", end - 2, end)
        end = end if escape < 0 else escape + 3  # never within an escape
        photo += unquote_to_bytes(data[at:end])
        at = end
    return bytes(photo[: MAX_BYTES + 1])


async def read_json(context: ApiContext, request: Request, limit: int = MAX_JSON) -> Any:
    """Read the JSON body of `request`, at most `limit` bytes. An empty body is an empty object.

    Large bodies are parsed in a thread, few at a time. Raises `ApiError` and `BodyError`.
    """
    try:
        async with context.bodies.read(request.receive, limit) as body:
            if not body.strip():
                return {}
            if len(body) <= MAX_INLINE_PARSE:
                return parse_json(body)
            return await to_thread.run_sync(parse_json, body, limiter=context.parsing)
    except ValueError as error:
        raise ApiError(input_error([_malformed(error)])) from None


async def read_model(
    context: ApiContext, request: Request, model: type[Model], limit: int = MAX_JSON
) -> Model:
    """Read the JSON body of `request` as `model`. Raises `ApiError` and `InvalidInput`."""
    return parse(model, await read_json(context, request, limit))


def _malformed(error: ValueError) -> Detail:
    position, reason = 0, str(error)
    if isinstance(error, JSONDecodeError):
        position, reason = error.pos, error.msg
    return {
        "loc": ["body", position], "msg": "JSON decode error", "type": "json_invalid",
        "ctx": {"error": reason}, "input": {},
    }  # fmt: skip


async def _check_webhook(service: ApiService, url: str) -> None:
    try:
        with suppress(Unreachable):  # a receiver that is down now may be up at the end of the job
            await service.context.fetcher.check(url, service.lookups)
    except InvalidUrl as error:
        raise bad_request(f"fal_webhook: {error.message}") from None


def lifetime(preference: str | None) -> float | None:
    """Seconds to keep a file, from a lifecycle header; None if it does not say.

    Raises `ApiError`, also for access lists: files here are open to everyone with the URL, and a
    caller must not believe otherwise.
    """
    if not preference:
        return None
    try:
        lifecycle = parse_json(preference)
        seconds = lifecycle.get("expiration_duration_seconds")
        acl = str(lifecycle.get("initial_acl")).lower()
    except (ValueError, AttributeError):
        raise bad_request("The lifecycle preference is not a JSON object.") from None
    if "forbid" in acl or "hide" in acl:
        raise bad_request("This server has no access lists. Everyone with its URL can open a file.")
    if not seconds:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
        raise bad_request("expiration_duration_seconds must be a number of seconds.")
    return min(float(seconds), MAX_KEEP_S)


def bad_request(message: str) -> ApiError:
    """An error of headers or query, 400."""
    return ApiError(request_error(400, message, "bad_request"))


MAX_COUNT = 999_999_999
"""Largest number of seconds or requests in a header or the query."""


async def job_options(
    owner: Owner,
    priority: Annotated[Literal["normal", "low"], Header(
        alias="x-fal-queue-priority",
        description="Requests of low priority run when no others are waiting.",
    )] = "normal",
    start_timeout_s: Annotated[float | None, Header(
        alias="x-fal-request-timeout", ge=MIN_TIMEOUT_S, le=MAX_COUNT,
        description="Seconds within which the request must start.",
    )] = None,
    lifecycle: Annotated[str | None, Header(
        alias="x-fal-object-lifecycle-preference",
        description='JSON, {"expiration_duration_seconds": n}: how long to keep the video.',
    )] = None,
    max_waiting: Annotated[int | None, Query(
        alias="fal_max_queue_length", ge=0, le=MAX_COUNT,
        description="Refuse (429) if more requests than this are waiting.",
    )] = None,
    webhook: Annotated[str | None, Query(
        alias="fal_webhook", description="Address to call when the request has ended.",
    )] = None,
) -> JobOptions:  # fmt: skip
    """Job options from headers and query. Raises `ApiError`, 400."""
    return JobOptions(
        priority=priority,
        start_timeout_s=start_timeout_s,
        max_waiting=max_waiting,
        owner=owner,
        webhook=webhook or None,
        keep_s=lifetime(lifecycle),
    )


Options = Annotated[JobOptions, Depends(job_options)]
