"""Hub errors: why a checkpoint cannot be downloaded, and what the user can do.

The hub's client reports one cause in many ways, and wraps them. The chain of causes is searched for
the most certain one: settings and files of this machine first, then the hub's response, then the
network. Sentences never show a token or the password of a proxy.
"""

import errno
import os
import re
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    DisabledRepoError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
)

from svd_core.errors import ModelBroken, ModelGated, ModelUnavailable, ModelUnreachable

FULL = (errno.ENOSPC, errno.EDQUOT)
UNUSABLE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, errno.ENOLCK, errno.ESTALE, errno.EINVAL,
)  # fmt: skip
"""Error numbers of a folder in which nothing can be written."""

OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""Error number in the messages of the Xet downloader, which raises no `OSError`."""

# The base class of the network's errors. It is taken from the client's own error, since the client
# changed its HTTP library between releases.
TRANSPORT: type[Exception] = next(
    base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError"
)

INVALID_TOKEN = "Invalid credentials"  # noqa: S105 - the hub's words


def explain(repo: str, error: BaseException) -> ModelUnavailable:
    """`error` as one of this program, whose sentence says what to do."""
    causes = list(_causes(error))
    return (
        _of_settings(repo, causes)
        or _of_certificate_file()
        or _of_files(repo, causes)
        or _of_certificate(repo, causes)
        or _of_answer(repo, causes)
        or _of_proxy(repo, causes)
        or _of_network(repo, causes)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(20):  # a chain may be a circle
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or cause.__context__


def _of_settings(repo: str, causes: list[BaseException]) -> ModelUnavailable | None:
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in causes):
        names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
        name = next((name for name in names if os.environ.get(name)), names[0])
        return ModelUnreachable("model_offline", model=repo, variable=name)
    if any(isinstance(cause, HFValidationError) for cause in causes):
        return _unknown(repo)
    if any(type(cause).__name__ in ("UnsupportedProtocol", "InvalidURL") for cause in causes):
        return ModelUnreachable("hub_address_invalid", value=repr(constants.ENDPOINT))
    unsendable = any(isinstance(cause, UnicodeEncodeError) for cause in causes)
    if unsendable and not (get_token() or "").isascii():  # copied with more than the token
        return ModelGated("model_token_refused", model=repo, place=_token_place())
    return None


def _of_certificate_file() -> ModelUnavailable | None:
    if path := os.environ.get("SSL_CERT_FILE"):
        try:
            ssl.create_default_context(cafile=path)
        except OSError:  # also a file without a certificate
            return ModelUnreachable("certificate_file_unreadable", path=path)
    return None


def _of_files(repo: str, causes: list[BaseException]) -> ModelUnavailable | None:
    is_network = any(isinstance(cause, TRANSPORT) for cause in causes)
    for cause in causes:
        number = cause.errno if isinstance(cause, OSError) and not is_network else None
        if match := OS_ERROR.search(str(cause)):
            number = int(match[1])
        if number in FULL:
            return ModelUnreachable("model_disk_full", model=repo)
        path = getattr(cause, "filename", None)
        if number is not None and (number in UNUSABLE or isinstance(path, str)):
            setting = "HF_HUB_CACHE" if os.environ.get("HF_HUB_CACHE") else "HF_HOME"
            folder, reason = str(path or constants.HF_HUB_CACHE), os.strerror(number)
            return ModelUnreachable(
                "model_folder_unusable", model=repo, path=folder, reason=reason, variable=setting
            )
    return None


def _of_certificate(repo: str, causes: list[BaseException]) -> ModelUnavailable | None:
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError) or "certificate" in str(cause).lower():
            reason = getattr(cause, "verify_message", "") or "unknown issuer"
            return ModelUnreachable(
                "certificate_untrusted", model=repo, address=constants.ENDPOINT, reason=reason
            )
    return None


def _of_answer(repo: str, causes: list[BaseException]) -> ModelUnavailable | None:
    refusal = next((cause for cause in causes if isinstance(cause, HfHubHTTPError)), None)
    if refusal is None:
        return None
    status, address = refusal.response.status_code, constants.ENDPOINT
    message = refusal.response.headers.get("X-Error-Message", "")
    if isinstance(refusal, GatedRepoError):
        return ModelGated("model_licence_required", model=repo)
    if isinstance(refusal, DisabledRepoError):
        return ModelBroken("model_withdrawn", model=repo)
    if status == 401 and (get_token() or message.startswith(INVALID_TOKEN)):
        return ModelGated("model_token_refused", model=repo, place=_token_place())
    if status == 401:
        return ModelGated("model_not_public", model=repo)
    if status == 403:
        return ModelGated("model_forbidden", model=repo, address=address)
    if status == 404:
        return _unknown(repo)
    if status == 429:
        return ModelUnreachable("hub_rate_limited", model=repo)
    code = "hub_failing" if status >= 500 else "hub_status_unknown"
    return ModelUnreachable(code, model=repo, address=address, status=status)


def _of_proxy(repo: str, causes: list[BaseException]) -> ModelUnavailable | None:
    proxy, address = _proxy(), constants.ENDPOINT
    if proxy is None:
        return None
    if any(isinstance(cause, ImportError) and "socksio" in str(cause) for cause in causes):
        return ModelUnreachable("proxy_needs_socksio", proxy=proxy)
    if any("Unknown scheme for proxy" in str(cause) for cause in causes):
        return ModelUnreachable("proxy_unsupported", proxy=proxy)
    refused = next((cause for cause in causes if type(cause).__name__ == "ProxyError"), None)
    if refused is None:
        return ModelUnreachable("proxy_unreachable", model=repo, proxy=proxy, address=address)
    reason = " ".join(str(refused).split())[:100] or type(refused).__name__
    return ModelUnreachable(
        "proxy_refused", model=repo, proxy=proxy, address=address, reason=reason
    )


def _of_network(repo: str, causes: list[BaseException]) -> ModelUnavailable:
    foreign = (ValueError, TypeError, KeyError, AttributeError, FileMetadataError)
    code = "hub_not_a_hub" if isinstance(causes[0], foreign) else "hub_unreachable"
    return ModelUnreachable(code, model=repo, address=constants.ENDPOINT)


def _unknown(repo: str) -> ModelBroken:
    return ModelBroken("model_not_found", model=repo)


def _token_place() -> str:
    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    return next((name for name in names if os.environ.get(name)), str(constants.HF_TOKEN_PATH))


def _proxy() -> str | None:
    """The proxy on the way to the hub, without its password."""
    address = urlsplit(constants.ENDPOINT)
    proxies = getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(address.hostname or ""):
        return None
    return re.sub(r"^(\w+://)?[^/]*@", r"\1", proxy)
