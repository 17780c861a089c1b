"""Storage routes (`/rest`): upload permits, and temporary tokens for callers without a key."""

from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from svd_core.web.fal.auth import owner_of
from svd_core.web.fal.dependencies import ApiContext, ApiService
from svd_core.web.fal.responses import ApiError, ApiResponse, detail, input_error, not_an_object
from svd_core.web.fal.submit import lifetime, read_json
from svd_core.web.fal.uploads import UPLOAD_TIMEOUT_S
from svd_core.web.snippets import ENDPOINTS

MAX_TOKEN_S = 3600.0
SMALL = 64 * 1024
"""Bytes of the bodies read here."""


class StorageRoutes:
    def __init__(self, service: ApiService) -> None:
        self._context = service.context

    async def initiate(self, request: Request) -> Response:
        """An address to send the file to, which is its own permission, and the one it gets."""
        wish = await _object(self._context, request)
        keep_s = lifetime(request.headers.get("x-fal-object-lifecycle"))
        name = self._context.uploads.new_name(
            owner_of(request), _text(wish, "content_type"), _text(wish, "file_name")
        )
        token = self._context.tokens.issue(
            "upload", UPLOAD_TIMEOUT_S, {"name": name, "keep_s": keep_s}
        )
        base = self._context.urls.base(request)
        told = {
            "upload_url": f"{base}/cdn/upload/{name}?token={token}",
            "file_url": f"{base}/cdn/files/{name}",
        }
        return ApiResponse(200, told).to_response()

    async def cdn_token(self, request: Request) -> Response:
        """What `fal-client` for Python uploads with."""
        token = self._context.tokens.issue("cdn", UPLOAD_TIMEOUT_S, {"owner": owner_of(request)})
        until = datetime.now(UTC) + timedelta(seconds=UPLOAD_TIMEOUT_S)
        told = {
            "token": token,
            "token_type": "Bearer",
            "base_url": f"{self._context.urls.base(request)}/cdn",
            "expires_at": until.isoformat(timespec="seconds"),
        }
        return ApiResponse(200, told).to_response()

    async def stream_token(self, request: Request) -> Response:
        """What a browser may stream with for a while, in place of a key."""
        wish = await _object(self._context, request)
        apps = wish.get("allowed_apps")
        known = {endpoint.partition("/")[2] for endpoint in ENDPOINTS} | {*ENDPOINTS}
        if (
            not isinstance(apps, list)
            or not apps
            or not all(isinstance(app, str) and app in known for app in apps)
        ):
            message = f"Input should list apps of this server: {', '.join(sorted(known))}"
            raise ApiError(
                input_error([detail("allowed_apps", message, "value_error", input=apps)])
            )
        seconds = wish.get("token_expiration", 120)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds <= 0:
            message = "Input should be a number of seconds"
            entry = detail("token_expiration", message, "float_type", input=seconds)
            raise ApiError(input_error([entry]))
        lasting = min(float(seconds), MAX_TOKEN_S)
        token = self._context.tokens.issue("stream", lasting, {"owner": owner_of(request)})
        return ApiResponse(201, token).to_response()

    async def key_set(self, _: Request) -> Response:
        """The public key that webhooks are signed with."""
        headers = {"Cache-Control": "public, max-age=3600"}
        return ApiResponse(200, self._context.signer.key_set(), headers).to_response()


async def _object(context: ApiContext, request: Request) -> dict[str, Any]:
    body = await read_json(context, request, SMALL)
    if not isinstance(body, dict):
        raise ApiError(input_error([not_an_object(body)]))
    return body


def _text(wish: dict[str, Any], name: str) -> str:
    value = wish.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        message = "Input should be a valid string"
        raise ApiError(input_error([detail(name, message, "string_type", input=value)]))
    return value
