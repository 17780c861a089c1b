"""Settings from the environment, read once by whoever starts the program and passed down."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from svd_core.errors import InvalidSettings

PREFIX = "SVD_"


class Settings(BaseModel):
    """Each field is an environment variable `SVD_<NAME>`; its description is the README's text."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model: str = Field(
        "auto",
        description="checkpoint: a name of the table, a hub id or a folder; "
        "auto takes svd-xt on CUDA and svd-nano elsewhere",
    )
    offload: Literal["auto", "none", "model", "sequential"] = Field(
        "auto", description="where weights wait on CUDA; auto plans it from the free memory"
    )
    data_dir: Annotated[Path, AfterValidator(Path.expanduser)] = Field(
        default_factory=lambda: platformdirs.user_data_path("svd-studio", appauthor=False),
        description="folder for results and, later, the job table",
    )
    page_auth: str = Field(
        "",
        pattern="^([^:]+:.+)?$",
        repr=False,
        description="name:password that opens the page; empty: no login",
    )
    max_queue: int = Field(
        32, ge=1, le=10_000, description="jobs that may wait before new ones are refused"
    )
    keep_hours: float = Field(24.0, gt=0, description="hours a result stays on disk")
    keep_gb: float = Field(2.0, gt=0, description="gigabytes of results kept; the oldest go first")

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
                raise InvalidSettings(
                    f"{variable} is not a setting. Known: {', '.join(sorted(known))}."
                )
            if variable in known and value:
                found[known[variable]] = value
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            raise InvalidSettings(_sentence(error)) from None


def on_zero_gpu() -> bool:
    """Whether this is a Hugging Face Space whose GPU is lent for each call."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0])
    meaning = Settings.model_fields[name].description
    return f"{PREFIX}{name.upper()} is wrong: {first['msg'].lower()} ({meaning})."
