"""URLs of this server: build them, and recognize those of uploads."""

import hmac
import re
from urllib.parse import urlsplit

from starlette.requests import Request

from svd_core.web.fal.signed_tokens import SignedTokens
from svd_core.web.snippets import MOUNT

NETLOC = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")
UPLOADS = "/cdn/files/"
NAME = re.compile(r"[0-9a-f]{8}/[0-9a-f]{32}\.[a-z0-9]{3,4}")


class UrlBuilder:
    """Builder of URLs. `public_url`: of this server; empty: each caller's Host header."""

    def __init__(self, public_url: str, tokens: SignedTokens) -> None:
        self._public_url = public_url.rstrip("/")
        self._tokens = tokens

    def base(self, request: Request) -> str:
        """Beginning of all URLs of the API, without a slash at its end."""
        if self._public_url:
            return f"{self._public_url}{MOUNT}"
        scope, netloc = request.scope, request.headers.get("host", "")
        if not NETLOC.fullmatch(netloc):
            host, port = scope.get("server") or ("127.0.0.1", None)
            host = f"[{host}]" if ":" in host else host
            netloc = f"{host}:{port}" if port else host
        return f"{scope['scheme']}://{netloc}{scope.get('root_path', '')}"

    def video(self, base: str, job_id: str) -> str:
        """Signed URL of a finished video. To know it is the permission to open it."""
        return f"{base}/cdn/videos/{self._tokens.sign_short(f'video:{job_id}')}/{job_id}.mp4"

    def is_video(self, signature: str, job_id: str) -> bool:
        """Whether the signature in the URL of a video is right."""
        expected = self._tokens.sign_short(f"video:{job_id}")
        return hmac.compare_digest(signature.encode("utf-8", "surrogatepass"), expected.encode())


def upload_name(url: str) -> str | None:
    """Name of the upload that `url` means, on any host; None for other URLs.

    Runs in linear time. The caller limits the length.
    """
    try:
        split = urlsplit(url)
    except ValueError:
        return None
    if split.scheme not in ("http", "https") or not split.netloc or "?" in url or "#" in url:
        return None
    _, prefix, name = split.path.rpartition(UPLOADS)
    return name if prefix and NAME.fullmatch(name) else None
