"""Addresses that this server gives out, and how it knows its own again."""

import re

from starlette.requests import Request

from svd_core.web.fal.tokens import Tokens

MOUNT = "/fal"
"""Where the API lies on this server."""

NETLOC = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")
FILE = re.compile(r"https?://[^/?#]+[^?#]*/cdn/files/(?P<name>[0-9a-f]{8}/[0-9a-f]{32}\.\w{3,4})")


class Links:
    """`public_url`: address of this server as everybody is to call it; empty: as each caller
    does."""

    def __init__(self, public_url: str, tokens: Tokens) -> None:
        self._public_url = public_url.rstrip("/")
        self._tokens = tokens

    def base(self, request: Request) -> str:
        """What every address of the API begins with, without a slash at the end."""
        if self._public_url:
            return f"{self._public_url}{MOUNT}"
        scope, netloc = request.scope, request.headers.get("host", "")
        if not NETLOC.fullmatch(netloc):
            host, port = scope.get("server") or ("127.0.0.1", None)
            host = f"[{host}]" if ":" in host else host
            netloc = f"{host}:{port}" if port else host
        return f"{scope['scheme']}://{netloc}{scope.get('root_path', '')}"

    def video(self, base: str, job_id: str) -> str:
        """Address of a finished video, which everybody may open who knows it."""
        return f"{base}/cdn/videos/{self._tokens.mark(f'video:{job_id}')}/{job_id}.mp4"

    def is_video(self, mark: str, job_id: str) -> bool:
        return mark == self._tokens.mark(f"video:{job_id}")


def upload_name(url: str) -> str | None:
    """The name of the upload that `url` leads to, if it is the address of one, on any host."""
    found = FILE.fullmatch(url)
    return found["name"] if found else None
