"""URLs of this server: build them, and recognize those of uploads."""

import hmac
import re
from urllib.parse import urlsplit

from starlette.requests import Request

from svd_core.web.fal.signed_tokens import SignedTokens
from svd_core.web.public_address import PublicAddress
from svd_core.web.snippets import MOUNT

UPLOADS = "/cdn/files/"
NAME = re.compile(r"[0-9a-f]{8}/[0-9a-f]{32}\.[a-z0-9]{3,4}")


class UrlBuilder:
    """Builder of URLs. `public_url`: of this server; empty: as each request says."""

    def __init__(self, public_url: str, tokens: SignedTokens) -> None:
        self._address = PublicAddress(public_url)
        self._tokens = tokens

    def base(self, request: Request) -> str:
        """Beginning of all URLs of the API, without a slash at its end."""
        return f"{self._address.resolve(request.scope)}{MOUNT}"

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
