"""File routes: upload permits and other tokens (`/rest`), uploads and downloads (`/cdn`).

Below `/cdn` no key is needed: the URL itself is the permission, or a token comes with the request.
"""

import re
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from anyio import to_thread
from fastapi import Header, Security
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from svd_core.web.fal import models, openapi
from svd_core.web.fal.dependencies import ApiContext
from svd_core.web.fal.models import InvalidInput
from svd_core.web.fal.openapi import (
    OCTETS,
    FalApi,
    File,
    Folder,
    KeyHeader,
    Owner,
    PartNumber,
    Signature,
    Token,
    UploadId,
)
from svd_core.web.fal.responses import ApiError, request_error
from svd_core.web.fal.submit import bad_request, lifetime, read_model
from svd_core.web.fal.uploads import TYPES, UPLOAD_TIMEOUT_S, UploadWriter

PART_NUMBER = re.compile(r"[0-9]{1,5}")
BUFFER_BYTES = 2**20
"""Bytes to buffer before they are written."""

DIGITS = re.compile(r"[0-9]{1,18}")

FILE_MISSING = request_error(404, "There is no such file, or it has expired.", "not_found")
NO_UPLOAD = request_error(403, "This upload is not permitted, or no longer.", "forbidden")

# A file shown from this server must not act as one of its pages.
SANDBOX_HEADERS = {
    "Content-Security-Policy": "sandbox; default-src 'none'; media-src 'self'; img-src 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "cross-origin",
}

MAX_TOKEN_S = 3600.0
MAX_REST_BODY = 64 * 1024
"""Bytes of request bodies below `/rest`."""

Lifecycle = Annotated[
    str | None,
    Header(
        alias="x-fal-object-lifecycle",
        description='JSON, {"expiration_duration_seconds": n}: how long to keep the file.',
    ),
]
FileName = Annotated[
    str,
    Header(
        alias="x-fal-file-name", description="Its ending is the type, if there is no Content-Type."
    ),
]


def add_storage_routes(api: FalApi, context: ApiContext) -> None:
    """Add the routes below `/rest`."""
    files, access = partial(api.serve, tag="Files"), partial(api.serve, tag="Access")
    closed, refused = openapi.CLOSED, openapi.BAD_REQUEST | openapi.CLOSED | openapi.BAD_BODY
    urls, path = context.urls, "/rest/storage/upload/initiate"

    @files("POST", path, refused, body=models.UploadRequest)
    async def initiate(
        request: Request, owner: Owner, lifecycle: Lifecycle = None
    ) -> models.UploadResponse:
        """Get an address to upload a file to."""
        keep_s = lifetime(lifecycle)
        body = await read_model(context, request, models.UploadRequest, MAX_REST_BODY)
        name = context.uploads.new_name(owner, body.content_type or "", body.file_name or "")
        claims = {"name": name, "keep_s": keep_s}
        token, base = context.tokens.issue("upload", UPLOAD_TIMEOUT_S, claims), urls.base(request)
        return models.UploadResponse(
            upload_url=f"{base}/cdn/upload/{name}?token={token}",
            file_url=f"{base}/cdn/files/{name}",
        )

    @files("POST", f"{path}-multipart", refused, body=models.UploadRequest)
    async def initiate_multipart(
        request: Request, owner: Owner, lifecycle: Lifecycle = None
    ) -> models.UploadResponse:
        """Get an address to upload a large file to, in parts."""
        return await initiate(request, owner, lifecycle)

    @files("POST", "/rest/storage/auth/token", closed)
    async def cdn_token(request: Request, owner: Owner) -> models.CdnToken:
        """Get a token for uploads, as `fal-client` for Python does."""
        expires_at = datetime.now(UTC) + timedelta(seconds=UPLOAD_TIMEOUT_S)
        return models.CdnToken(
            token=context.tokens.issue("cdn", UPLOAD_TIMEOUT_S, {"owner": owner}),
            token_type="Bearer",  # noqa: S106  # the name of a scheme
            base_url=f"{urls.base(request)}/cdn",
            expires_at=expires_at.isoformat(timespec="seconds"),
        )

    body = models.StreamTokenRequest

    @access("POST", "/rest/tokens", closed, openapi.BAD_BODY, body=body, status_code=201)
    async def stream_token(request: Request, owner: Owner) -> str:
        """Get a token that a browser can stream with for a while, in place of a key."""
        wanted = await read_model(context, request, models.StreamTokenRequest, MAX_REST_BODY)
        lifetime_s = min(wanted.token_expiration, MAX_TOKEN_S)
        return context.tokens.issue("stream", lifetime_s, {"owner": owner})

    @access("GET", "/rest/.well-known/jwks.json")
    async def key_set(response: Response) -> models.KeySet:
        """Get the public key that webhooks are signed with."""
        response.headers["Cache-Control"] = "public, max-age=3600"
        return models.KeySet.model_validate(context.signer.key_set())


def add_file_routes(api: FalApi, context: ApiContext) -> None:
    """Add the routes below `/cdn`."""
    serve, uploads, urls = partial(api.serve, tag="Files"), context.uploads, context.urls
    upload_path, file_path = "/cdn/upload/{folder}/{file}", "/cdn/files/{folder}/{file}"
    multipart = f"{file_path}/multipart/{{upload_id}}"
    storing = openapi.FORBIDDEN | openapi.STORING
    part = openapi.BAD_REQUEST | storing
    joining = part | openapi.BAD_BODY
    by_token = openapi.BAD_REQUEST | openapi.CLOSED

    @serve("PUT", upload_path, storing, body=OCTETS)
    async def put(
        request: Request, response: Response, folder: Folder, file: File, token: Token = ""
    ) -> models.Stored:
        """Upload a file to its upload_url."""
        claims = read_claims(token, folder, file)
        writing = uploads.writing(claims["name"], claims["keep_s"])
        return models.Stored(etag=await _save(context, request, response, writing))

    @serve("PUT", f"{upload_path}/{{number}}", part, body=OCTETS)
    async def put_part(
        request: Request, response: Response,
        folder: Folder, file: File, number: PartNumber, token: Token = "",
    ) -> models.PartStored:  # fmt: skip
        """Upload a part of a file to its upload_url."""
        return await save_part(request, response, read_claims(token, folder, file), number)

    @serve("POST", f"{upload_path}/complete", joining, body=models.PartList)
    async def complete(
        request: Request, folder: Folder, file: File, token: Token = ""
    ) -> models.Uploaded:
        """Join the parts of a file."""
        return await join(request, read_claims(token, folder, file))

    keyed = [Security(KeyHeader())]

    @serve("POST", "/cdn/files/upload", by_token, openapi.STORING, body=OCTETS, dependencies=keyed)
    async def upload(
        request: Request, response: Response, file_name: FileName = "", lifecycle: Lifecycle = None
    ) -> models.Uploaded:
        """Upload a file, with a token or a key."""
        name, keep_s = new_name(request, file_name), lifetime(lifecycle)
        await _save(context, request, response, uploads.writing(name, keep_s))
        return uploaded(request, name)

    @serve("POST", "/cdn/files/upload/multipart", by_token, dependencies=keyed)
    async def begin(
        request: Request, file_name: FileName = "", lifecycle: Lifecycle = None
    ) -> models.MultipartUpload:
        """Begin the upload of a large file, with a token or a key."""
        name = new_name(request, file_name)
        claims = {"name": name, "keep_s": lifetime(lifecycle)}
        upload_id = context.tokens.issue("upload", UPLOAD_TIMEOUT_S, claims)
        access_url = uploaded(request, name).access_url
        return models.MultipartUpload(access_url=access_url, uploadId=upload_id)

    @serve("PUT", f"{multipart}/{{number}}", part, body=OCTETS)
    async def put_part_by_id(
        request: Request, response: Response,
        folder: Folder, file: File, upload_id: UploadId, number: PartNumber,
    ) -> models.PartStored:  # fmt: skip
        """Upload a part of a file to its access_url."""
        return await save_part(request, response, read_claims(upload_id, folder, file), number)

    @serve("POST", f"{multipart}/complete", joining, body=models.PartList)
    async def complete_by_id(
        request: Request, folder: Folder, file: File, upload_id: UploadId
    ) -> models.Uploaded:
        """Join the parts of a file."""
        return await join(request, read_claims(upload_id, folder, file))

    @serve("GET", file_path, openapi.NO_FILE, content="*/*")
    async def file(folder: Folder, file: File) -> Response:
        """Download an uploaded file."""
        path = uploads.find(f"{folder}/{file}")
        if path is None:
            raise ApiError(FILE_MISSING)
        return _file_response(path)

    @serve("GET", "/cdn/videos/{signature}/{file}", openapi.NO_FILE, content="video/mp4")
    async def video(signature: Signature, file: File) -> Response:
        """Download a finished video."""
        job_id = file.removesuffix(".mp4")
        if not urls.is_video(signature, job_id):
            raise ApiError(FILE_MISSING)
        path = context.results.path(job_id)
        if not path.is_file():
            raise ApiError(FILE_MISSING)
        return _file_response(path)

    def new_name(request: Request, file_name: str) -> str:
        authorization = request.headers.get("authorization", "")
        claims = context.tokens.read("cdn", authorization.removeprefix("Bearer "))
        owner = claims["owner"] if claims else context.keys.owner(authorization)
        return uploads.new_name(owner, request.headers.get("content-type", ""), file_name)

    def read_claims(token: str, folder: str, file: str) -> dict[str, Any]:
        """Claims of the upload token for that file. Raises `ApiError`, 403."""
        claims = context.tokens.read("upload", token)
        if claims is None or claims["name"] != f"{folder}/{file}":
            raise ApiError(NO_UPLOAD)
        return claims

    async def save_part(
        request: Request, response: Response, claims: dict[str, Any], number: str
    ) -> models.PartStored:
        if not PART_NUMBER.fullmatch(number) or not 1 <= int(number) <= models.MAX_PARTS:
            raise bad_request(f"Parts are numbered from 1 to {models.MAX_PARTS}.")
        writing = uploads.writing_part(claims["name"], int(number))
        etag = await _save(context, request, response, writing)
        return models.PartStored(partNumber=int(number), etag=etag)

    async def join(request: Request, claims: dict[str, Any]) -> models.Uploaded:
        try:
            body = await read_model(context, request, models.PartList)
        except InvalidInput:
            form = "The body must be {'parts': [{'partNumber': 1, 'etag': '...'}]}."
            raise bad_request(form) from None
        parts = [(each.partNumber, each.etag.strip('"')) for each in body.parts]
        await to_thread.run_sync(uploads.join, claims["name"], parts, claims["keep_s"])
        return uploaded(request, claims["name"])

    def uploaded(request: Request, name: str) -> models.Uploaded:
        return models.Uploaded(access_url=f"{urls.base(request)}/cdn/files/{name}")


async def _save(
    context: ApiContext,
    request: Request,
    response: Response,
    target: AbstractContextManager[UploadWriter],
) -> str:
    """Write the body of `request` to `target`. Returns its ETag, a header of `response` too.

    Raises `ApiError` and `BodyError`.
    """
    length = request.headers.get("content-length", "")
    with target as writer:
        if DIGITS.fullmatch(length):
            await to_thread.run_sync(writer.expect, int(length))
        buffer = bytearray()
        async for piece in context.bodies.pieces(request.receive):
            buffer += piece
            if len(buffer) >= BUFFER_BYTES:
                await to_thread.run_sync(writer.write, bytes(buffer))
                buffer.clear()
        await to_thread.run_sync(writer.write, bytes(buffer))
    response.headers["ETag"] = writer.etag
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
