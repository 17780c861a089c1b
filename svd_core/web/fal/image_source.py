"""Image source of a request: a data URI, an upload, or a remote URL."""

import base64
import binascii
from urllib.parse import unquote_to_bytes

from svd_core.media.image import MAX_BYTES
from svd_core.web.fal.models import InvalidInput
from svd_core.web.fal.responses import detail
from svd_core.web.fal.uploads import UploadStore
from svd_core.web.fal.urls import upload_name
from svd_core.web.ssrf import MAX_URL

PIECE = 2**16
"""Characters of percent-encoded text that are decoded at once; each costs some 80 bytes then."""


def resolve_image(image_url: str, uploads: UploadStore, base: str) -> bytes | None:
    """The photo that is here already, or None where `image_url` has to be fetched.

    `base`: of this server's addresses. Raises `InvalidInput` for an upload that is gone, for what
    is no address and for what cannot be decoded.
    """
    if image_url[:5].lower() == "data:":
        return _decode_data_uri(image_url)
    if image_url[:8].lower().startswith(("http://", "https://")):
        if len(image_url) > MAX_URL:
            message = f"The address is longer than {MAX_URL} characters; upload the photo instead."
            ctx = {"max_length": MAX_URL}
            raise InvalidInput([detail("image_url", message, "url_too_long", ctx=ctx)])
        name = upload_name(image_url)
        path = uploads.find(name) if name else None
        if path is not None:
            with path.open("rb") as file:
                return file.read(MAX_BYTES + 1)  # one too many, and the core says so
        if image_url.startswith(f"{base}/cdn/"):
            message = "There is no such upload here, or its time is over; upload the photo again."
            raise InvalidInput([detail("image_url", message, "file_download_error")])
        return None
    raise InvalidInput(
        [
            detail(
                "image_url",
                "URL scheme should be 'http', 'https' or 'data'",
                "url_scheme",
                ctx={"expected_schemes": "'http', 'https' or 'data'"},
                input=image_url,
            )
        ]
    )


def _decode_data_uri(url: str) -> bytes:
    head, comma, data = url.partition(",")
    try:
        if not comma:
            raise ValueError("no comma")
        if not head.lower().rstrip().endswith(";base64"):
            return _unquoted(data)
        for space in " \t\r\n":  # long ones are often broken into lines
            data = data.replace(space, "")
        return base64.b64decode(data.encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        message = "The data URI cannot be decoded; after 'data:image/png;base64,' comes base64."
        raise InvalidInput([detail("image_url", message, "image_load_error", input=url)]) from None


def _unquoted(data: str) -> bytes:
    """Percent-decoded bytes, at most one more than a photo may have. Memory stays near that."""
    found, at = bytearray(), 0
    while at < len(data) and len(found) <= MAX_BYTES:
        end = at + PIECE
        escape = data.rfind("%", end - 2, end)
        end = end if escape < 0 else escape + 3  # never within an escape
        found += unquote_to_bytes(data[at:end])
        at = end
    return bytes(found[: MAX_BYTES + 1])
