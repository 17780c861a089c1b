"""Table of checkpoints: name, source, trained sizes, defaults and licence of each.

A checkpoint folder may state some of these itself, in `svd.json`.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from svd_core.errors import InvalidRequest, InvalidSettings, ModelBroken
from svd_core.messages import Message
from svd_core.params import check_value

ASSETS = Path(__file__).resolve().parents[2] / "assets"
DEMO_MODEL = "svd-nano"
"""The embedded checkpoint, which is always available, so that the app falls back to it."""

PIPELINE = "StableVideoDiffusionPipeline"

FLAGS = ("half_precision_on_cpu", "single_precision_unet")
FOLDER_SETTINGS = (
    "sizes", "num_frames", "num_inference_steps", "min_guidance_scale", "max_guidance_scale",
    *FLAGS,
)  # fmt: skip
"""Fields of `Checkpoint` that a folder may set in `svd.json`."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

Size = tuple[int, int]
"""(width, height) in pixels."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model with its defaults and its licence.

    `source`: hub id or local folder. `sizes`: the trained one first; the rest work with some loss.
    `revision`: branch, tag or commit on the hub; once loaded, the commit. Empty for a folder.
    `memory_gb`: GPU memory for its default video, (least with model offload, with all weights on
    the GPU), by `memory_plan.estimate_memory`; zeros if unknown.
    `half_precision_on_cpu`: its videos are as good in bfloat16, which is faster on some CPUs.
    `single_precision_unet`: its UNet needs float32 everywhere.
    `cpu_core_s`: processor seconds of its default video, summed over the cores; 0: unknown.
    """

    name: str
    source: str
    revision: str = "main"
    sizes: tuple[Size, ...]
    num_frames: int
    num_inference_steps: int
    min_guidance_scale: float
    max_guidance_scale: float
    licence: str
    licence_url: str
    gated: bool = False
    memory_gb: tuple[float, float] = (0.0, 0.0)
    half_precision_on_cpu: bool = False
    single_precision_unet: bool = False
    cpu_core_s: float = 0.0
    summary_code: str = "summary_custom"

    @property
    def summary(self) -> Message:
        """What it is, in words. `summary_code`: of that message."""
        return Message(self.summary_code, source=self.source)

    @property
    def folder(self) -> Path | None:
        """The local folder, or None for a checkpoint on the hub."""
        return None if HUB_ID.fullmatch(self.source) else Path(self.source)


def _published(
    name: str,
    repo: str,
    num_frames: int,
    summary_code: str,
    memory_gb: tuple[float, float],
    gated: bool = False,
) -> Checkpoint:
    """One of Stability AI's three. Steps and guidance are diffusers' defaults. The sizes are those
    of Stability's hosted service, the trained one first."""
    source = f"stabilityai/stable-video-diffusion-{repo}"
    return Checkpoint(
        name=name,
        source=source,
        sizes=((1024, 576), (576, 1024), (768, 768)),
        num_frames=num_frames,
        num_inference_steps=25,
        min_guidance_scale=1.0,
        max_guidance_scale=3.0,
        licence="Stability AI Community License",
        licence_url=f"https://huggingface.co/{source}",
        gated=gated,
        memory_gb=memory_gb,
        summary_code=summary_code,
    )


CHECKPOINTS: Mapping[str, Checkpoint] = {
    checkpoint.name: checkpoint
    for checkpoint in (
        Checkpoint(
            name=DEMO_MODEL,
            source=str(ASSETS / DEMO_MODEL),
            revision="",
            sizes=((512, 288), (288, 512), (384, 384)),
            num_frames=14,
            num_inference_steps=1,
            min_guidance_scale=1.0,
            max_guidance_scale=1.0,
            licence="CC BY-SA 4.0",
            licence_url="https://creativecommons.org/licenses/by-sa/4.0/",
            cpu_core_s=9.0,  # 6.3 s of processor time, and cores that wait for each other
            summary_code="summary_svd_nano",
        ),
        _published("svd-xt", "img2vid-xt", 25, "summary_svd_xt", (7.2, 11.0)),
        _published(
            "svd-xt-1.1", "img2vid-xt-1-1", 25, "summary_svd_xt_1_1", (7.2, 11.0), gated=True
        ),
        _published("svd", "img2vid", 14, "summary_svd", (6.2, 9.0)),
    )
}


def find_checkpoint(name: str, cuda: bool) -> Checkpoint:
    """The checkpoint called `name`: `auto`, a name of the table, a hub id or a local folder.

    `cuda`: whether there is a GPU; `auto` takes svd-xt with one and svd-nano without. Nothing is
    downloaded. A hub id outside the table gets SVD-XT's settings until `with_folder_config` has
    read its files. Raises `InvalidSettings` for a name that is none of these, `ModelBroken` for a
    wrong folder.
    """
    if name == "auto":
        name = "svd-xt" if cuda else DEMO_MODEL
    checkpoint = CHECKPOINTS.get(name)
    if checkpoint is not None:
        folder = checkpoint.folder
        return with_folder_config(checkpoint, folder) if folder and folder.is_dir() else checkpoint
    for known in CHECKPOINTS.values():
        if name == known.source:
            return known
    folder_name = Path(os.path.expanduser(name))  # keeps `~` where there is no home
    if name and folder_name.is_dir():
        return _from_folder(folder_name.resolve())
    if HUB_ID.fullmatch(name):
        return _custom_checkpoint(
            name.rsplit("/", 1)[1], name, "main", f"https://huggingface.co/{name}"
        )
    raise InvalidSettings("model_setting_unknown", value=repr(name), known=list(CHECKPOINTS))


def with_folder_config(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """`checkpoint` with the settings in the files of `folder`.

    The UNet's config has `num_frames`, so that a 14-frame model makes 14 frames. An optional
    `svd.json` may have any of `FOLDER_SETTINGS`, with `sizes` as [[width, height], ...]. Raises
    `ModelBroken`, naming the file.
    """
    index = read_json(folder / "model_index.json")
    if index.get("_class_name") != PIPELINE:
        raise ModelBroken(
            "model_wrong_pipeline",
            path=str(folder / "model_index.json"),
            found=str(index.get("_class_name", "model")),
            needed=PIPELINE,
        )
    settings = {}
    num_frames = read_json(folder / "unet" / "config.json").get("num_frames")
    if num_frames is not None:
        settings["num_frames"] = num_frames
    path = folder / "svd.json"
    if path.is_file():
        settings |= read_json(path)
    return replace(checkpoint, **_check_settings(settings, path))


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file `path`. Raises `ModelBroken`, naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelBroken("model_config_missing", path=str(path)) from None
    except (OSError, ValueError) as error:
        raise ModelBroken("model_config_unreadable", path=str(path), reason=str(error)) from error
    if not isinstance(content, dict):
        raise ModelBroken("model_config_not_object", path=str(path))
    return content


def _from_folder(folder: Path) -> Checkpoint:
    if not (folder / "model_index.json").is_file():
        raise ModelBroken("model_not_a_folder", path=str(folder))
    return with_folder_config(_custom_checkpoint(folder.name, str(folder), "", ""), folder)


def _custom_checkpoint(name: str, source: str, revision: str, url: str) -> Checkpoint:
    return replace(
        CHECKPOINTS["svd-xt"],
        name=name,
        source=source,
        revision=revision,
        licence="see its model card",
        licence_url=url,
        memory_gb=(0.0, 0.0),
        summary_code="summary_custom",
    )


def _check_settings(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """`settings` as fields of a `Checkpoint`. Raises `ModelBroken` for unknown or unusable ones."""
    checked: dict[str, Any] = {}
    try:
        for name, value in settings.items():
            if name not in FOLDER_SETTINGS:
                raise ValueError(f"{name!r} is not known, only {', '.join(FOLDER_SETTINGS)}")
            if value is None:
                raise ValueError(f"{name} must not be null")
            if name in FLAGS and not isinstance(value, bool):
                raise ValueError(f"{name} must be true or false")
            if name == "sizes":
                checked[name] = _sizes(value)
            else:
                checked[name] = value if name in FLAGS else check_value(name, value)
    except (TypeError, ValueError) as error:
        raise ModelBroken("model_config_invalid", path=str(path), reason=f"{error}.") from error
    except InvalidRequest as error:
        raise ModelBroken("model_config_invalid", path=str(path), reason=error.message) from error
    return checked


def _sizes(value: Any) -> tuple[Size, ...]:
    sizes = tuple((int(width), int(height)) for width, height in value)
    if not sizes or any(side < 32 or side % 8 for size in sizes for side in size):
        raise ValueError("sizes must be pairs of multiples of 8, at least 32")
    return sizes
