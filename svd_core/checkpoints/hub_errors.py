"""Hub errors: why a checkpoint cannot be downloaded, and what helps against it.

The hub's client reports one cause in many ways, and wraps them. The chain of causes is searched for
the most certain one: files and settings of this machine first, then what the hub answered, then the
way to it. Sentences never show a token or the password of a proxy.
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

# The base class of what fails on the way. It comes from the client's own error, since the client's
# HTTP library changed its name between releases.
TRANSPORT: type[Exception] = next(
    base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError"
)

INVALID_TOKEN = "Invalid credentials"  # noqa: S105 - the hub's words


def explain(repo: str, error: BaseException) -> ModelUnavailable:
    """`error` as one of this app, whose sentence says what to do."""
    causes = list(_causes(error))
    return (
        _of_settings(repo, causes)
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
        return ModelUnreachable(
            f"{repo} is not complete on this machine, and {name} forbids downloads; unset it, or "
            "copy the model here."
        )
    if any(isinstance(cause, HFValidationError) for cause in causes):
        return _unknown(repo)
    if any(type(cause).__name__ in ("UnsupportedProtocol", "InvalidURL") for cause in causes):
        return ModelUnreachable(
            f"HF_ENDPOINT must be an address such as https://huggingface.co, not "
            f"{constants.ENDPOINT!r}; correct it, or unset it."
        )
    return None


def _of_files(repo: str, causes: list[BaseException]) -> ModelUnavailable | None:
    is_network = any(isinstance(cause, TRANSPORT) for cause in causes)
    for cause in causes:
        number = cause.errno if isinstance(cause, OSError) and not is_network else None
        if found := OS_ERROR.search(str(cause)):
            number = int(found[1])
        if number in FULL:
            return ModelUnreachable(
                f"The disk is full, so {repo} cannot be downloaded: free some room, or let HF_HOME "
                "name a folder on a larger disk."
            )
        path = getattr(cause, "filename", None)
        if number is not None and (number in UNUSABLE or isinstance(path, str)):
            setting = "HF_HUB_CACHE" if os.environ.get("HF_HUB_CACHE") else "HF_HOME"
            return ModelUnreachable(
                f"{path or constants.HF_HUB_CACHE} cannot be used ({os.strerror(number)}), so "
                f"{repo} cannot be downloaded; allow this user to write there, or let {setting} "
                "name another folder."
            )
    return None


def _of_certificate(repo: str, causes: list[BaseException]) -> ModelUnavailable | None:
    certificates = os.environ.get("SSL_CERT_FILE")
    if certificates and not os.access(certificates, os.R_OK):
        return ModelUnreachable(
            f"The file {certificates} of SSL_CERT_FILE cannot be read; correct the path, or unset "
            "it."
        )
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError) or "certificate" in str(cause).lower():
            reason = getattr(cause, "verify_message", "") or "unknown issuer"
            return ModelUnreachable(
                f"The certificate of {constants.ENDPOINT} is not trusted here ({reason}), so "
                f"{repo} cannot be downloaded; check the date of this machine. If a company's "
                "network or a virus scanner reads along, let SSL_CERT_FILE name its certificate."
            )
    return None


def _of_answer(repo: str, causes: list[BaseException]) -> ModelUnavailable | None:
    answered = next((cause for cause in causes if isinstance(cause, HfHubHTTPError)), None)
    if answered is None:
        return None
    status = answered.response.status_code
    message = answered.response.headers.get("X-Error-Message", "")
    if isinstance(answered, GatedRepoError):
        return ModelGated(
            f"{repo} is for people who accepted its licence: accept it at "
            f"https://huggingface.co/{repo} and set HF_TOKEN to a token of that account."
        )
    if isinstance(answered, DisabledRepoError):
        return ModelBroken(f"The hub no longer gives out {repo}; choose another model.")
    if status == 401 and (get_token() or message.startswith(INVALID_TOKEN)):
        return ModelGated(
            f"The hub refuses the token of {_token_place()}, which may have expired; get a new one "
            f"at https://huggingface.co/settings/tokens, or remove it if {repo} is public."
        )
    if status == 401:
        return ModelGated(
            f"The hub has no public model {repo}; check the name, or set HF_TOKEN to a token of an "
            "account that may see it."
        )
    if status == 403:
        return ModelGated(
            f"{constants.ENDPOINT} forbids the download of {repo}; set HF_TOKEN to a token that "
            "may read it, or ask whether your network blocks the hub."
        )
    if status == 404:
        return _unknown(repo)
    if status == 429:
        return ModelUnreachable(
            f"The hub limits how much is downloaded from here, so {repo} has to wait: start again "
            "in some minutes, or set HF_TOKEN, which raises the limit. Whole files are kept."
        )
    if status >= 500:
        return ModelUnreachable(
            f"{constants.ENDPOINT} has a fault of its own just now (status {status}), so {repo} "
            "cannot be downloaded; start again in some minutes. Whole files are kept."
        )
    return None


def _of_proxy(repo: str, causes: list[BaseException]) -> ModelUnavailable | None:
    proxy = _proxy()
    if proxy is None:
        return None
    if any(isinstance(cause, ImportError) and "socksio" in str(cause) for cause in causes):
        return ModelUnreachable(
            f"The proxy {proxy} needs the package socksio, which is not installed; run "
            "pip install socksio, or unset ALL_PROXY."
        )
    if any("Unknown scheme for proxy" in str(cause) for cause in causes):
        return ModelUnreachable(
            f"{proxy} is of a kind of proxy that is not supported; set HTTPS_PROXY to an address "
            "such as http://proxy.example.org:3128."
        )
    refused = next((cause for cause in causes if type(cause).__name__ == "ProxyError"), None)
    if refused is not None:
        return ModelUnreachable(
            f"The proxy {proxy} refuses the way to {constants.ENDPOINT} ({_one_line(refused)}), so "
            f"{repo} cannot be downloaded; check HTTPS_PROXY and its password."
        )
    return ModelUnreachable(
        f"{repo} cannot be downloaded now: {constants.ENDPOINT} cannot be reached by the proxy "
        f"{proxy}. Check HTTPS_PROXY and start again; files that came whole are kept."
    )


def _of_network(repo: str, causes: list[BaseException]) -> ModelUnavailable:
    foreign = (ValueError, TypeError, KeyError, AttributeError, FileMetadataError)
    if any(isinstance(cause, foreign) for cause in causes[:1]):
        return ModelUnreachable(
            f"{constants.ENDPOINT} does not answer like a model hub, so {repo} cannot be "
            "downloaded; check HF_ENDPOINT, and whether your network wants a login first."
        )
    return ModelUnreachable(
        f"{repo} cannot be downloaded now: {constants.ENDPOINT} did not answer or broke off. "
        "Check the network and start again; files that came whole are kept."
    )


def _unknown(repo: str) -> ModelBroken:
    return ModelBroken(f"The hub has no model {repo} at this revision; check the name.")


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
    return re.sub(r"^(\w+://)?[^/@]*@", r"\1", proxy)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
