"""Settings from environment variables, read once at the start and passed down."""

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
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
from svd_core.params import LIMITS

PREFIX = "SVD_"

ORCHESTRATOR = re.compile(
    r"SVD_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
    r"|SVD_PORT(_\w+)?|SVD_(NAME|ENV_\w+)"
)
"""Variables that Kubernetes and Docker write for a service or a linked container named `svd`."""

ADDRESS = re.compile(r"\w+://\S+:\d+")
"""What they write into `SVD_<NAME>_PORT`."""

GRADIO_NAMES = {
    "SVD_HOST": "GRADIO_SERVER_NAME",
    "SVD_SERVER_NAME": "GRADIO_SERVER_NAME",
    "SVD_SERVER_PORT": "GRADIO_SERVER_PORT",
}
"""Names that one may expect here, and what they are called."""

RESERVED_PATHS = re.compile(r"/(fal|gradio_api|config|assets|static|svelte|login|logout)(/.*)?")
"""Paths of this server, so that the path of its public URL cannot begin with them."""


def _user_data_path() -> Path:
    """The user's data folder. Users of containers may have no home, and get the current folder."""
    try:
        return platformdirs.user_data_path("svd-studio", appauthor=False)
    except RuntimeError:
        return Path("svd-studio").absolute()


def _expand_user(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("there is no home folder that ~ could mean") from None


def _list_of(one: str) -> str:
    """Regular expression of none or several of `one`, comma separated."""
    return rf"^({one}(\s*,\s*{one})*)?$"


def _worker_range(text: str) -> str:
    """`text` if it is a range of workers, such as 1-64, or a number. Raises `ValueError`."""
    least, _, most = text.partition("-")
    if int(most or least) < max(int(least), 1):
        raise ValueError("The most must be at least 1, and no less than the least")
    return text


def canonical_url(text: str) -> str:
    """The one way to write an address: lower case, ASCII, no default port and no slash at the end.

    Raises `ValueError`. `text`: an http or https URL, which may have a path; or empty.
    """
    if not (text := text.strip()):
        return ""
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("it has to begin with http:// or https:// and a host name")
    if url.query or url.fragment or url.username is not None or re.search(r"\s", text):
        raise ValueError("it may have a host name, a port and a path, and nothing else")
    try:
        host = url.hostname if ":" in url.hostname else url.hostname.encode("idna").decode()
    except UnicodeError:
        raise ValueError("no computer can have that host name") from None
    host = f"[{host}]" if ":" in host else host
    port = "" if url.port in (None, {"http": 80, "https": 443}[url.scheme]) else f":{url.port}"
    path = quote(re.sub("/+", "/", url.path), safe="/%:@!$&'()*+,;=~").rstrip("/")
    if RESERVED_PATHS.fullmatch(path):
        raise ValueError(f"it is the address of the page, and {path} is a path of this server")
    return f"{url.scheme}://{host}{port}{path}"


class Settings(BaseModel):
    """Each field is an environment variable `SVD_<NAME>`; its description is in the table of
    svd_core/README.md."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model: str = Field(
        "auto",
        description="checkpoint: a name of the table, a hub id or a folder; "
        "auto takes svd-xt on CUDA and svd-nano elsewhere; of several, comma separated, each video "
        "may choose, and the first is the usual one",
    )
    offload: Literal["auto", "none", "model", "sequential"] = Field(
        "auto", description="where weights wait on CUDA; auto plans it from the free memory"
    )
    turbo: Annotated[FilePath, BeforeValidator(os.path.expanduser)] | None = Field(
        None,
        description="file of UNet weights for the speed turbo, such as "
        "AnimateLCM-SVD-xt-1.1.safetensors; empty: turbo is not to be had",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="whether the UNet is compiled: on does, which takes minutes once for each size "
        "and length of video; auto does where that has been done before; on is refused on ZeroGPU",
    )
    data_dir: Annotated[Path, AfterValidator(_expand_user)] = Field(
        default_factory=_user_data_path,
        description="folder for the job table, results, and photos that wait",
    )
    database_url: str = Field(
        "",
        repr=False,
        description="job table as an SQLAlchemy URL; empty: SQLite in the data folder",
    )
    cluster: str = Field(
        "",
        pattern=r"^(local|[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5})?$",
        description="GPU machines that make the videos: host:port of a Ray head, or local for all "
        "GPUs of this machine; empty: this process makes them itself",
    )
    cluster_workers: Annotated[str, AfterValidator(_worker_range)] = Field(
        "1-64",
        pattern=r"^\d{1,4}(-\d{1,4})?$",
        description="GPU workers of the cluster, least-most: the least are always kept loaded, and "
        "at most the most are used while videos wait",
    )
    cluster_idle_s: float = Field(
        300.0,
        ge=0,
        description="seconds after which an idle GPU worker above the least gives its GPU back",
    )
    cluster_cpus: int = Field(
        4, ge=1, le=256, description="processor threads of one GPU worker of the cluster"
    )
    page_auth: str = Field(
        "",
        pattern="^([^:]+:.+)?$",
        repr=False,
        description="name:password that opens the page; empty: no login",
    )
    api_keys: str = Field(
        "",
        pattern=_list_of(r"[A-Za-z0-9_.-]{1,64}:[^,\s]+"),
        repr=False,
        description="id:secret of each key of the HTTP API, comma separated; empty: the API is "
        "open to this machine, and closed where others can reach it",
    )
    proxy_origins: str = Field(
        "",
        pattern=_list_of(r"https?://[^,\s/]+"),
        description="origins (https://example.org, comma separated) whose web pages may call "
        "/fal/proxy without a key",
    )
    public_url: Annotated[str, AfterValidator(canonical_url)] = Field(
        "",
        description="address that visitors use, such as https://example.org/svd, for the page, the "
        "API and all links; empty: the Space's, elsewhere what a trusted proxy reports, or the "
        "address that the server was called by",
    )
    allowed_origins: str = Field(
        "",
        pattern=r"^\*$|" + _list_of(r"https?://[^,\s/]+"),
        description="origins (https://example.org, comma separated) whose web pages may call the "
        "page, its uploads and MCP besides its own; * for all; empty: none, and on a Space without "
        "login all",
    )
    allow_private_urls: bool = Field(
        False,
        description="whether photos and webhooks may lie at addresses of private networks and of "
        "this machine",
    )
    max_upload_mb: int = Field(
        256, ge=1, le=10_000, description="megabytes of one file uploaded to the HTTP API"
    )
    uploads_gb: float = Field(
        1.0, gt=0, description="gigabytes of uploads kept for one key of the HTTP API"
    )
    max_queue: int = Field(
        32, ge=1, le=10_000, description="jobs that may wait before new ones are refused"
    )
    max_queue_per_key: int = Field(
        16,
        ge=1,
        le=10_000,
        description="jobs of one API key, or of one visitor, that may wait; those of callers "
        "without either share one such number",
    )
    max_queue_per_address: int = Field(
        0,
        ge=0,
        le=10_000,
        description="videos of one network address that may be on their way on the page; 0: no "
        "limit; behind a proxy it needs X-Forwarded-For from an address in FORWARDED_ALLOW_IPS",
    )
    max_steps: int | None = Field(
        None,
        ge=1,
        le=LIMITS["num_inference_steps"].maximum,
        description="most denoising steps of one video; empty: 100, and for visitors of a Space "
        "without login the checkpoint's own number",
    )
    max_frames: int | None = Field(
        None,
        ge=2,
        le=LIMITS["num_frames"].maximum,
        description="most frames of one video; empty: 50, and for visitors of a Space without "
        "login the checkpoint's own number",
    )
    max_connections: int = Field(
        2000,
        ge=8,
        le=50_000,
        description="connections at once, as far as the process may have file descriptors; idle "
        "ones make room for new ones",
    )
    body_seconds: float = Field(
        300.0,
        gt=0,
        description="seconds in which the body of a request has to arrive, and longer only at "
        "64 kB a second or more",
    )
    keep_hours: float = Field(24.0, gt=0, description="hours a finished job stays, with its result")
    keep_gb: float = Field(
        2.0,
        gt=0,
        description="gigabytes of results kept, as many of uploads, and of photos; the oldest go "
        "first",
    )

    @property
    def job_table(self) -> str:
        """SQLAlchemy URL of the job table."""
        return self.database_url or f"sqlite:///{self.data_dir / 'jobs.sqlite'}"

    @property
    def worker_range(self) -> tuple[int, int]:
        """The least and the most workers of the cluster."""
        least, _, most = self.cluster_workers.partition("-")
        return int(least), int(most or least)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read `environ` (default: the process's). Empty ones count as not set.

        Raises `InvalidSettings` for an unknown variable and for a wrong value, which is not shown:
        it may be a password.
        """
        known = {PREFIX + name.upper(): name for name in cls.model_fields}
        found = {}
        for variable, value in (os.environ if environ is None else environ).items():
            if variable.startswith(PREFIX) and variable not in known:
                if _by_orchestrator(variable, value):
                    continue
                raise _unknown(variable, known)
            if variable in known and value:
                found[known[variable]] = value
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            raise _invalid(error) from None


def space_url() -> str:
    """Address of the Hugging Face Space that this is; empty elsewhere."""
    host = os.environ.get("SPACE_HOST", "")
    return f"https://{host}" if host else ""


def on_zero_gpu() -> bool:
    """Whether this is a Hugging Face Space whose GPU is lent for each call."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def _by_orchestrator(variable: str, value: str) -> bool:
    if variable.endswith("_PORT") and ADDRESS.fullmatch(value):
        return True
    return ORCHESTRATOR.fullmatch(variable) is not None


def _unknown(variable: str, known: Mapping[str, str]) -> InvalidSettings:
    forms = {form: name for name in (*known, *GRADIO_NAMES) for form in _forms(name)}
    asked = variable.upper()
    close = [get_close_matches(form, forms, n=1, cutoff=0.6) for form in _forms(asked)]
    names = [forms[found[0]] for found in close if found]
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
    meaning = Settings.model_fields[name].description
    wrong = first["msg"].lower().removeprefix("value error, ")
    if first["type"] == "string_pattern_mismatch":
        wrong = "it has another form"  # than a regular expression, which would explain nothing
    elif first["type"] == "value_error":
        wrong = str(first["ctx"]["error"])
    return InvalidSettings(
        "variable_invalid", variable=PREFIX + name.upper(), reason=wrong, meaning=meaning or ""
    )
