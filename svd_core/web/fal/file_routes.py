"""File routes: upload permits and other tokens (`/rest`), uploads and downloads (`/cdn`).

Below `/cdn` no key is needed: the URL itself is the permission, or a token comes with the request.
The docstrings of the routes are descriptions in the OpenAPI document.
"""

import re
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from svd_core.errors import UnknownJob
from svd_core.web.fal.auth import owner_of
from svd_core.web.fal.dependencies import ApiContext, ApiService
from svd_core.web.fal.responses import (
    ApiError,
    ApiResponse,
    detail,
    input_error,
    not_an_object,
    request_error,
)
from svd_core.web.fal.submit import bad_request, lifetime, read_json, refused_body
from svd_core.web.fal.uploads import TYPES, UPLOAD_TIMEOUT_S, UploadWriter
from svd_core.web.request_body import BodyError
from svd_core.web.snippets import ENDPOINTS

BUFFER_BYTES = 2**20
"""Bytes to buffer before they are written."""

MAX_PARTS = 10_000
PART_NUMBER = re.compile(r"[0-9]{1,5}")
DIGITS = re.compile(r"[0-9]{1,18}")

NO_FILE = request_error(404, "There is no such file, or its time is over.", "not_found")
NO_UPLOAD = request_error(403, "This upload was not permitted, or too long ago.", "forbidden")

# A file shown from this server must not act as one of its pages.
SANDBOX_HEADERS = {
    "Content-Security-Policy": "sandbox; default-src 'none'; media-src 'self'; img-src 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "cross-origin",
}

MAX_TOKEN_S = 3600.0
MAX_REST_BODY = 64 * 1024
"""Bytes of request bodies below `/rest`."""


class StorageRoutes:
    """Routes below `/rest`."""

    def __init__(self, service: ApiService) -> None:
        self._context = service.context

    async def initiate(self, request: Request) -> Response:
        """An address to send the file to, which is its own permission, and the one it gets."""
        body = await _object(self._context, request)
        keep_s = lifetime(request.headers.get("x-fal-object-lifecycle"))
        name = self._context.uploads.new_name(
            owner_of(request), _text(body, "content_type"), _text(body, "file_name")
        )
        token = self._context.tokens.issue(
            "upload", UPLOAD_TIMEOUT_S, {"name": name, "keep_s": keep_s}
        )
        base = self._context.urls.base(request)
        urls = {
            "upload_url": f"{base}/cdn/upload/{name}?token={token}",
            "file_url": f"{base}/cdn/files/{name}",
        }
        return ApiResponse(200, urls).to_response()

    async def cdn_token(self, request: Request) -> Response:
        """What `fal-client` for Python uploads with."""
        token = self._context.tokens.issue("cdn", UPLOAD_TIMEOUT_S, {"owner": owner_of(request)})
        expires_at = datetime.now(UTC) + timedelta(seconds=UPLOAD_TIMEOUT_S)
        payload = {
            "token": token,
            "token_type": "Bearer",
            "base_url": f"{self._context.urls.base(request)}/cdn",
            "expires_at": expires_at.isoformat(timespec="seconds"),
        }
        return ApiResponse(200, payload).to_response()

    async def stream_token(self, request: Request) -> Response:
        """What a browser may stream with for a while, in place of a key."""
        body = await _object(self._context, request)
        apps = body.get("allowed_apps")
        valid = {endpoint.partition("/")[2] for endpoint in ENDPOINTS} | {*ENDPOINTS}
        if (
            not isinstance(apps, list)
            or not apps
            or not all(isinstance(app, str) and app in valid for app in apps)
        ):
            message = f"Input should list apps of this server: {', '.join(sorted(valid))}"
            raise ApiError(
                input_error([detail("allowed_apps", message, "value_error", input=apps)])
            )
        seconds = body.get("token_expiration", 120)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds <= 0:
            message = "Input should be a number of seconds"
            entry = detail("token_expiration", message, "float_type", input=seconds)
            raise ApiError(input_error([entry]))
        lifetime_s = min(float(seconds), MAX_TOKEN_S)
        token = self._context.tokens.issue("stream", lifetime_s, {"owner": owner_of(request)})
        return ApiResponse(201, token).to_response()

    async def key_set(self, _: Request) -> Response:
        """The public key that webhooks are signed with."""
        headers = {"Cache-Control": "public, max-age=3600"}
        return ApiResponse(200, self._context.signer.key_set(), headers).to_response()


async def _object(context: ApiContext, request: Request) -> dict[str, Any]:
    body = await read_json(context, request, MAX_REST_BODY)
    if not isinstance(body, dict):
        raise ApiError(input_error([not_an_object(body)]))
    return body


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        message = "Input should be a valid string"
        raise ApiError(input_error([detail(name, message, "string_type", input=value)]))
    return value


class FileRoutes:
    """Routes below `/cdn`."""

    def __init__(self, service: ApiService) -> None:
        self._context = service.context

    async def put(self, request: Request, folder: str, file: str) -> Response:
        """The whole file, at the address that `initiate` gave."""
        claims = self._query_claims(request, f"{folder}/{file}")
        etag = await self._save(
            request, self._context.uploads.writing(claims["name"], claims["keep_s"])
        )
        return ApiResponse(200, {"etag": etag}, {"ETag": etag}).to_response()

    async def put_part(self, request: Request, folder: str, file: str, number: str) -> Response:
        claims = self._query_claims(request, f"{folder}/{file}")
        return await self._part(request, claims["name"], number)

    async def complete(self, request: Request, folder: str, file: str) -> Response:
        claims = self._query_claims(request, f"{folder}/{file}")
        return await self._join(request, claims["name"], claims["keep_s"])

    async def upload(self, request: Request) -> Response:
        """The whole file, by a token; the answer tells its address."""
        name = self._new_name(request)
        keep_s = lifetime(request.headers.get("x-fal-object-lifecycle"))
        await self._save(request, self._context.uploads.writing(name, keep_s))
        return ApiResponse(200, {"access_url": self._url(request, name)}).to_response()

    async def begin(self, request: Request) -> Response:
        """The address that a file of parts is going to have, and a token for its parts."""
        name = self._new_name(request)
        keep_s = lifetime(request.headers.get("x-fal-object-lifecycle"))
        claims = {"name": name, "keep_s": keep_s}
        upload_id = self._context.tokens.issue("upload", UPLOAD_TIMEOUT_S, claims)
        payload = {"access_url": self._url(request, name), "uploadId": upload_id}
        return ApiResponse(200, payload).to_response()

    async def put_part_by_id(
        self, request: Request, folder: str, file: str, upload_id: str, number: str
    ) -> Response:
        claims = self._claims(upload_id, f"{folder}/{file}")
        return await self._part(request, claims["name"], number)

    async def complete_by_id(
        self, request: Request, folder: str, file: str, upload_id: str
    ) -> Response:
        claims = self._claims(upload_id, f"{folder}/{file}")
        return await self._join(request, claims["name"], claims["keep_s"])

    async def file(self, _: Request, folder: str, file: str) -> Response:
        path = self._context.uploads.find(f"{folder}/{file}")
        if path is None:
            raise ApiError(NO_FILE)
        return _file_response(path)

    async def video(self, _: Request, mark: str, file: str) -> Response:
        job_id = file.removesuffix(".mp4")
        if not self._context.urls.is_video(mark, job_id):
            raise ApiError(NO_FILE)
        try:
            path = self._context.results.path(job_id)
        except UnknownJob:
            raise ApiError(NO_FILE) from None
        if not path.is_file():
            raise ApiError(NO_FILE)
        return _file_response(path)

    def _new_name(self, request: Request) -> str:
        headers = request.headers
        authorization = headers.get("authorization", "")
        claims = self._context.tokens.read("cdn", authorization.removeprefix("Bearer "))
        owner = claims["owner"] if claims else self._context.keys.owner(authorization)
        return self._context.uploads.new_name(
            owner, headers.get("content-type", ""), headers.get("x-fal-file-name", "")
        )

    def _query_claims(self, request: Request, name: str) -> dict[str, Any]:
        return self._claims(request.query_params.get("token", ""), name)

    def _claims(self, token: str, name: str) -> dict[str, Any]:
        """Claims of the upload token for the file of that name. Raises `ApiError`, 403."""
        claims = self._context.tokens.read("upload", token)
        if claims is None or claims["name"] != name:
            raise ApiError(NO_UPLOAD)
        return claims

    def _url(self, request: Request, name: str) -> str:
        return f"{self._context.urls.base(request)}/cdn/files/{name}"

    async def _part(self, request: Request, name: str, number: str) -> Response:
        if not PART_NUMBER.fullmatch(number) or not 1 <= int(number) <= MAX_PARTS:
            raise bad_request(f"Parts are numbered from 1 to {MAX_PARTS}.")
        etag = await self._save(request, self._context.uploads.writing_part(name, int(number)))
        return ApiResponse(
            200, {"partNumber": int(number), "etag": etag}, {"ETag": etag}
        ).to_response()

    async def _join(self, request: Request, name: str, keep_s: float | None) -> Response:
        body = await read_json(self._context, request)
        try:
            parts = [(int(p["partNumber"]), str(p["etag"]).strip('"')) for p in body["parts"]]
            if not all(1 <= number <= MAX_PARTS for number, _ in parts):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            form = "The body must be {'parts': [{'partNumber': 1, 'etag': '...'}]}."
            raise bad_request(form) from None
        await to_thread.run_sync(self._context.uploads.join, name, parts, keep_s)
        return ApiResponse(200, {"access_url": self._url(request, name)}).to_response()

    async def _save(self, request: Request, target: AbstractContextManager[UploadWriter]) -> str:
        """Write the body of `request` to `target`. Returns its ETag. Raises `ApiError`."""
        length = request.headers.get("content-length", "")
        try:
            with target as writer:
                if DIGITS.fullmatch(length):
                    await to_thread.run_sync(writer.expect, int(length))
                buffer = bytearray()
                async for piece in self._context.bodies.pieces(request.receive):
                    buffer += piece
                    if len(buffer) >= BUFFER_BYTES:
                        await to_thread.run_sync(writer.write, bytes(buffer))
                        buffer.clear()
                await to_thread.run_sync(writer.write, bytes(buffer))
        except BodyError as error:
            raise refused_body(error) from None
        return writer.etag


def _file_response(path: Path) -> Response:
    """Serve a file: to be shown if its type is known, to be saved otherwise."""
    media_type = TYPES.get(path.suffix[1:])
    return FileResponse(
        path,
        media_type=media_type or "application/octet-stream",
        headers=SANDBOX_HEADERS | {"Cache-Control": "private, max-age=300"},
        filename=path.name,
        content_disposition_type="inline" if media_type else "attachment",
    )
