"""Files (`/cdn`): uploads, whole or in parts, and downloads of uploads and videos.

Each address here is its own permission, or a token came with the request.
"""

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from svd_core.errors import UnknownJob
from svd_core.web.fal.dependencies import ApiService
from svd_core.web.fal.responses import ApiError, ApiResponse, request_error
from svd_core.web.fal.submit import bad_request, lifetime, read_json, refused_body
from svd_core.web.fal.uploads import TYPES, UPLOAD_TIMEOUT_S, UploadWriter
from svd_core.web.request_body import BodyError

PIECE = 2**20
"""Bytes gathered before they are written."""

MAX_PARTS = 10_000
PART_NUMBER = re.compile(r"[0-9]{1,5}")
DIGITS = re.compile(r"[0-9]{1,18}")

NO_FILE = request_error(404, "There is no such file, or its time is over.", "not_found")
NO_UPLOAD = request_error(403, "This upload was not permitted, or too long ago.", "forbidden")

# A file shown from our address must not become a page of ours.
SANDBOX_HEADERS = {
    "Content-Security-Policy": "sandbox; default-src 'none'; media-src 'self'; img-src 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "cross-origin",
}


class FileRoutes:
    def __init__(self, service: ApiService) -> None:
        self._context = service.context

    async def put(self, request: Request, folder: str, file: str) -> Response:
        """The whole file, at the address that `initiate` gave."""
        permit = self._permit(request, f"{folder}/{file}")
        etag = await self._take(
            request, self._context.uploads.writing(permit["name"], permit["keep_s"])
        )
        return ApiResponse(200, {"etag": etag}, {"ETag": etag}).to_response()

    async def put_part(self, request: Request, folder: str, file: str, number: str) -> Response:
        permit = self._permit(request, f"{folder}/{file}")
        return await self._part(request, permit["name"], number)

    async def complete(self, request: Request, folder: str, file: str) -> Response:
        permit = self._permit(request, f"{folder}/{file}")
        return await self._join(request, permit["name"], permit["keep_s"])

    async def upload(self, request: Request) -> Response:
        """The whole file, by a token; the answer tells its address."""
        name = self._new_name(request)
        keep_s = lifetime(request.headers.get("x-fal-object-lifecycle"))
        await self._take(request, self._context.uploads.writing(name, keep_s))
        return ApiResponse(200, {"access_url": self._address(request, name)}).to_response()

    async def begin(self, request: Request) -> Response:
        """The address that a file of parts is going to have, and a token for its parts."""
        name = self._new_name(request)
        keep_s = lifetime(request.headers.get("x-fal-object-lifecycle"))
        claims = {"name": name, "keep_s": keep_s}
        upload_id = self._context.tokens.issue("upload", UPLOAD_TIMEOUT_S, claims)
        told = {"access_url": self._address(request, name), "uploadId": upload_id}
        return ApiResponse(200, told).to_response()

    async def put_part_by_id(
        self, request: Request, folder: str, file: str, upload_id: str, number: str
    ) -> Response:
        permit = self._permitted(upload_id, f"{folder}/{file}")
        return await self._part(request, permit["name"], number)

    async def complete_by_id(
        self, request: Request, folder: str, file: str, upload_id: str
    ) -> Response:
        permit = self._permitted(upload_id, f"{folder}/{file}")
        return await self._join(request, permit["name"], permit["keep_s"])

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
        given = headers.get("authorization", "")
        claims = self._context.tokens.read("cdn", given.removeprefix("Bearer "))
        owner = claims["owner"] if claims else self._context.keys.owner(given)
        return self._context.uploads.new_name(
            owner, headers.get("content-type", ""), headers.get("x-fal-file-name", "")
        )

    def _permit(self, request: Request, name: str) -> dict[str, Any]:
        return self._permitted(request.query_params.get("token", ""), name)

    def _permitted(self, token: str, name: str) -> dict[str, Any]:
        """What may be done with the file of that name. Raises `ApiError`, 403."""
        claims = self._context.tokens.read("upload", token)
        if claims is None or claims["name"] != name:
            raise ApiError(NO_UPLOAD)
        return claims

    def _address(self, request: Request, name: str) -> str:
        return f"{self._context.urls.base(request)}/cdn/files/{name}"

    async def _part(self, request: Request, name: str, number: str) -> Response:
        if not PART_NUMBER.fullmatch(number) or not 1 <= int(number) <= MAX_PARTS:
            raise bad_request(f"Parts are numbered from 1 to {MAX_PARTS}.")
        etag = await self._take(request, self._context.uploads.writing_part(name, int(number)))
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
        return ApiResponse(200, {"access_url": self._address(request, name)}).to_response()

    async def _take(self, request: Request, place: AbstractContextManager[UploadWriter]) -> str:
        """Write the body of `request` to `place`; its hash. Raises `ApiError`."""
        length = request.headers.get("content-length", "")
        try:
            with place as incoming:
                if DIGITS.fullmatch(length):
                    await to_thread.run_sync(incoming.expect, int(length))
                gathered = bytearray()
                async for piece in self._context.bodies.pieces(request.receive):
                    gathered += piece
                    if len(gathered) >= PIECE:
                        await to_thread.run_sync(incoming.write, bytes(gathered))
                        gathered.clear()
                await to_thread.run_sync(incoming.write, bytes(gathered))
        except BodyError as error:
            raise refused_body(error) from None
        return incoming.etag


def _file_response(path: Path) -> Response:
    """To be shown where its kind is known, to be saved otherwise."""
    kind = TYPES.get(path.suffix[1:])
    return FileResponse(
        path,
        media_type=kind or "application/octet-stream",
        headers=SANDBOX_HEADERS | {"Cache-Control": "private, max-age=300"},
        filename=path.name,
        content_disposition_type="inline" if kind else "attachment",
    )
