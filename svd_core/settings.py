"""Settings from the environment, read once by whoever starts the program and passed down."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from svd_core.errors import InvalidSettings

PREFIX = "SVD_"


class Settings(BaseModel):
    """Each field is an environment variable `SVD_<NAME>`; its description is the README's text."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model: str = Field("auto", description="checkpoint: a name of the table, a hub id or a folder; "
                       "auto takes svd-xt on CUDA and svd-nano elsewhere")
    offload: Literal["auto", "none", "model", "sequential"] = Field(
        "auto", description="where weights wait on CUDA; auto plans it from the free memory")
    data_dir: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("svd-studio", appauthor=False),
        description="folder for results and, later, the job table")
    page_auth: str = Field("", description="name:password that opens the page; empty: no login")
    max_queue: int = Field(32, ge=1, le=10_000, description="jobs that may wait before new ones are refused")
    keep_hours: float = Field(24.0, gt=0, description="hours a result stays on disk")
    keep_gb: float = Field(2.0, gt=0, description="gigabytes of results kept; the oldest go first")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read `environ` (default: the process's). Raises `InvalidSettings` on unknown or bad ones."""
        found = {k: v for k, v in (os.environ if environ is None else environ).items() if k.startswith(PREFIX)}
        known = {PREFIX + name.upper(): name for name in cls.model_fields}
        for name in found:
            if name not in known:
                raise InvalidSettings(f"{name} is not a setting. Known: {', '.join(sorted(known))}.")
        try:
            return cls.model_validate({known[name]: value for name, value in found.items()})
        except ValidationError as error:
            first = error.errors()[0]
            raise InvalidSettings(f"{PREFIX}{str(first['loc'][0]).upper()} is wrong: {first['msg']}.") from error
