"""Settings from environment variables, read once at the start and passed down."""

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from posixpath import normpath
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit

import platformdirs
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FilePath,
    ValidationError,
)

from svd_core.errors import InvalidSettings
from svd_core.messages import Message, validation_reason
from svd_core.params import MAX_NUM_FRAMES, MAX_STEPS

PREFIX = "SVD_"

ORCHESTRATOR = re.compile(
    r"SVD_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
    r"|SVD_PORT(_\w+)?|SVD_NAME|SVD_(\w+_)?ENV_\w+"
)
"""Variables that Kubernetes and Docker write for a service or a linked container named `svd`."""

LINK_VALUES = {"_PORT": re.compile(r"\w+://\S+:\d+"), "_NAME": re.compile(r"/\S+/\S+")}
"""What they write into `SVD_<NAME>_PORT` and `SVD_<NAME>_NAME`."""

GRADIO_NAMES = {
    "SVD_HOST": "GRADIO_SERVER_NAME",
    "SVD_SERVER_NAME": "GRADIO_SERVER_NAME",
    "SVD_SERVER_PORT": "GRADIO_SERVER_PORT",
}
"""Names that people try, and the variables that they mean."""

RESERVED_PATHS = re.compile(r"/(fal|gradio_api|config|assets|static|svelte|login|logout)(/.*)?")
"""Paths of this server, which the path of its public URL cannot begin with."""


def _user_data_path() -> Path:
    """The user's data folder; the current folder for users without a home, as in containers."""
    try:
        return platformdirs.user_data_path("svd-studio", appauthor=False)
    except RuntimeError:
        return Path("svd-studio").absolute()


def _expand_user(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(Message("reason_home_unknown")) from None


def _list_of(one: str) -> str:
    """Regular expression for any number of `one`, separated by commas."""
    return rf"^({one}(\s*,\s*{one})*)?$"


def _worker_range(text: str) -> str:
    """`text` if it is a range of workers, such as 1-64, or a number. Raises `ValueError`."""
    least, _, most = text.partition("-")
    if int(most or least) < max(int(least), 1):
        raise ValueError(Message("reason_worker_range"))
    return text


def canonical_url(text: str) -> str:
    """Canonical form of a URL: lower case, ASCII, without default port and trailing slash.

    `text`: an http or https URL, which may have a path; or empty. Raises `ValueError`.
    """
    if not (text := text.strip()):
        return ""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError(Message("reason_host_or_port")) from None
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(Message("reason_url_start"))
    if url.query or url.fragment or url.username is not None or re.search(r"\s", url.netloc):
        raise ValueError(Message("reason_url_parts"))
    try:
        host = url.hostname if ":" in url.hostname else url.hostname.encode("idna").decode()
    except UnicodeError:
        raise ValueError(Message("reason_host_name")) from None
    host = f"[{host}]" if ":" in host else host
    if port == 0:
        raise ValueError(Message("reason_host_or_port"))
    number = "" if port in (None, {"http": 80, "https": 443}[url.scheme]) else f":{port}"
    path = normpath(f"/{url.path.strip('/')}")  # as browsers do with .. in it
    path = quote(path, safe="/%:@!$&'()*+,;=~").rstrip("/")
    if RESERVED_PATHS.fullmatch(path):
        raise ValueError(Message("reason_path_reserved", path=path))
    return f"{url.scheme}://{host}{number}{path}"


class Settings(BaseModel):
    """Settings; each field is the environment variable `SVD_<NAME>`.

    `examples`: shown to users whose value does not match the pattern.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model: str = Field(
        "auto",
        description="checkpoint to use: a name from the table, a hub id or a folder; auto is "
        "svd-xt on CUDA and svd-nano elsewhere; with several, separated by commas, each video can "
        "choose, and the first is the default",
    )
    offload: Literal["auto", "none", "model", "sequential"] = Field(
        "auto",
        description="CPU offload on CUDA: keep weights in main memory until they are needed; auto "
        "decides by the free GPU memory",
    )
    turbo: Annotated[FilePath, BeforeValidator(os.path.expanduser)] | None = Field(
        None,
        description="file with the UNet weights for the speed turbo, such as "
        "AnimateLCM-SVD-xt-1.1.safetensors; empty: turbo is not available",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="whether to compile the UNet: on compiles it, which takes minutes for each "
        "new size and length; auto does so only where it has been done before; on is not allowed "
        "on ZeroGPU",
    )
    data_dir: Annotated[Path, AfterValidator(_expand_user)] = Field(
        default_factory=_user_data_path,
        description="folder for the job table, results, and photos of waiting jobs",
    )
    database_url: str = Field(
        "",
        repr=False,
        description="job table as an SQLAlchemy URL; empty: SQLite in the data folder",
    )
    cluster: str = Field(
        "",
        pattern=r"^(local|[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5})?$",
        examples=["10.0.0.1:6379"],
        description="GPU machines that make the videos: host:port of a Ray head node, or local "
        "for all GPUs of this machine; empty: this process makes them itself",
    )
    cluster_workers: Annotated[str, AfterValidator(_worker_range)] = Field(
        "1-64",
        pattern=r"^\d{1,4}(-\d{1,4})?$",
        examples=["1-64"],
        description="GPU workers in the cluster, min-max: min of them are always loaded, and up "
        "to max run while videos are waiting",
    )
    cluster_idle_s: float = Field(
        300.0,
        ge=0,
        description="seconds after which an idle GPU worker above the minimum gives up its GPU",
    )
    cluster_cpus: int = Field(
        4, ge=1, le=256, description="CPU threads of each GPU worker in the cluster"
    )
    page_auth: str = Field(
        "",
        pattern="^([^:]+:.+)?$",
        examples=["name:password"],
        repr=False,
        description="name:password required to open the page; empty: no login",
    )
    api_keys: str = Field(
        "",
        pattern=_list_of(r"[A-Za-z0-9_.-]{1,64}:[^,\s]+"),
        examples=["id:secret,id2:secret2"],
        repr=False,
        description="keys of the HTTP API, each id:secret, separated by commas; empty: the API is "
        "open to this machine, and closed if other machines can reach the server",
    )
    proxy_origins: str = Field(
        "",
        pattern=_list_of(r"https?://[^,\s/]+"),
        examples=["https://example.org"],
        description="origins (https://example.org, separated by commas) whose web pages may call "
        "/fal/proxy without a key",
    )
    public_url: Annotated[str, AfterValidator(canonical_url)] = Field(
        "",
        description="address that visitors use, such as https://example.org/svd, for the page, "
        "the API and all links; empty: the Space's address, otherwise the one a trusted proxy "
        "reports or the one in the request",
    )
    allowed_origins: str = Field(
        "",
        pattern=r"^\*$|" + _list_of(r"https?://[^,\s/]+"),
        examples=["https://example.org"],
        description="other origins (https://example.org, separated by commas) whose web pages may "
        "use the page, its uploads and MCP; * allows all; empty: none, but all on a Space "
        "without login",
    )
    allow_private_urls: bool = Field(
        False,
        description="whether photos and webhooks may be at addresses of private networks and this "
        "machine",
    )
    max_upload_mb: int = Field(
        256,
        ge=1,
        le=10_000,
        description="largest file that can be uploaded to the HTTP API, in megabytes",
    )
    uploads_gb: float = Field(
        1.0, gt=0, description="gigabytes of uploads kept per key of the HTTP API"
    )
    max_queue: int = Field(
        32, ge=1, le=10_000, description="jobs that may wait before new ones are refused"
    )
    max_queue_per_key: int = Field(
        16,
        ge=1,
        le=10_000,
        description="jobs that may wait per API key or visitor; callers with neither share one "
        "limit",
    )
    max_queue_per_address: int = Field(
        0,
        ge=0,
        le=10_000,
        description="videos per network address that may be waiting or running on the page; 0: no "
        "limit; behind a proxy it needs X-Forwarded-For from an address in FORWARDED_ALLOW_IPS",
    )
    max_steps: int | None = Field(
        None,
        ge=1,
        le=MAX_STEPS,
        description="most denoising steps of one video; empty: 100, or the checkpoint's own "
        "number for visitors of a Space without login",
    )
    max_frames: int | None = Field(
        None,
        ge=2,
        le=MAX_NUM_FRAMES,
        description="most frames of one video; empty: 50, or the checkpoint's own number for "
        "visitors of a Space without login",
    )
    max_connections: int = Field(
        2000,
        ge=8,
        le=50_000,
        description="most simultaneous connections, as far as file descriptors allow; idle ones "
        "are closed to make room",
    )
    body_seconds: float = Field(
        300.0,
        gt=0,
        description="seconds that a request body may take to arrive; it may take longer at 64 "
        "kB/s or more",
    )
    keep_hours: float = Field(
        24.0, gt=0, description="hours that a finished job and its result are kept"
    )
    keep_gb: float = Field(
        2.0,
        gt=0,
        description="gigabytes of results kept, and as much again for uploads and for photos; the "
        "oldest are deleted first",
    )

    @property
    def job_table(self) -> str:
        """SQLAlchemy URL of the job table."""
        return self.database_url or f"sqlite:///{self.data_dir / 'jobs.sqlite'}"

    @property
    def worker_range(self) -> tuple[int, int]:
        """Minimum and maximum of the workers of the cluster."""
        least, _, most = self.cluster_workers.partition("-")
        return int(least), int(most or least)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read `environ` (default: the process's). Empty variables count as not set.

        Raises `InvalidSettings` for an unknown variable or a wrong value, without the value: it may
        be a password.
        """
        known = {PREFIX + name.upper(): name for name in cls.model_fields}
        values = {}
        for variable, value in (os.environ if environ is None else environ).items():
            if variable.startswith(PREFIX) and variable not in known:
                if _by_orchestrator(variable, value):
                    continue
                raise _unknown(variable, known)
            if variable in known and value:
                values[known[variable]] = value
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _invalid(error) from None


def space_url() -> str:
    """Address of this Hugging Face Space; empty elsewhere."""
    host = os.environ.get("SPACE_HOST", "")
    return f"https://{host}" if host else ""


def on_zero_gpu() -> bool:
    """Whether this is a Hugging Face Space on ZeroGPU, which lends its GPU for each call."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def _by_orchestrator(variable: str, value: str) -> bool:
    written = LINK_VALUES.get(variable[-5:])
    if written is not None and written.fullmatch(value):
        return True
    return ORCHESTRATOR.fullmatch(variable) is not None


def _unknown(variable: str, known: Mapping[str, str]) -> InvalidSettings:
    forms = {form: name for name in (*known, *GRADIO_NAMES) for form in _forms(name)}
    close = [get_close_matches(form, forms, n=1, cutoff=0.6) for form in _forms(variable.upper())]
    names = [forms[matches[0]] for matches in close if matches]
    if not names:
        return InvalidSettings("variable_unknown", variable=variable, known=sorted(known))
    meant = GRADIO_NAMES.get(names[0], names[0])
    return InvalidSettings("variable_misspelt", variable=variable, meant=meant, known=sorted(known))


def _forms(name: str) -> tuple[str, str]:
    """A name without its prefix, and the same with its words in alphabetical order."""
    words = name.removeprefix(PREFIX)
    return words, "_".join(sorted(words.split("_")))


def _invalid(error: ValidationError) -> InvalidSettings:
    first = error.errors()[0]
    name = str(first["loc"][0])
    examples = Settings.model_fields[name].examples or [""]
    reason = validation_reason(first["type"], {"example": examples[0], **first.get("ctx", {})})
    return InvalidSettings("variable_invalid", variable=PREFIX + name.upper(), reason=reason)
