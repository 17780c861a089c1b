"""Server catalog: the checkpoints that requests may name, and the cost limits of one video.

`VideoParams` has the limits of every video, and this module those of one server.
"""

import os
from dataclasses import dataclass, replace
from typing import Any

from svd_core.checkpoints.speed_modes import at_speed
from svd_core.checkpoints.table import Checkpoint, find_checkpoint
from svd_core.errors import InvalidRequest, InvalidSettings
from svd_core.params import MAX_NUM_FRAMES, MAX_STEPS, VideoParams
from svd_core.settings import Settings, on_zero_gpu, space_url


@dataclass(frozen=True)
class ModelCatalog:
    """Checkpoints with unique names, of which the first is the default.

    `stand_in`: the default while the first of `checkpoints` is unavailable.
    """

    checkpoints: tuple[Checkpoint, ...]
    stand_in: Checkpoint | None = None

    @classmethod
    def from_setting(cls, setting: str, cuda: bool) -> "ModelCatalog":
        """The checkpoints that `SVD_MODEL` names, as for `find_checkpoint`, separated by commas.

        Nothing is downloaded. Raises what `find_checkpoint` raises, and `InvalidSettings` for names
        that cannot be combined.
        """
        names = [name.strip() for name in setting.split(",")]
        if len(names) == 1 or os.path.isdir(os.path.expanduser(setting)):
            return cls((find_checkpoint(setting, cuda),))
        if on_zero_gpu():
            raise InvalidSettings("models_on_zero_gpu")
        if "auto" in names:
            raise InvalidSettings("models_with_auto")
        catalog = cls(tuple(find_checkpoint(name, cuda) for name in names))
        for name in catalog.names:
            if catalog.names.count(name) > 1:
                raise InvalidSettings("models_same_name", name=name)
        return catalog

    @property
    def default(self) -> Checkpoint:
        """The checkpoint of requests that name none."""
        return self.stand_in or self.checkpoints[0]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(checkpoint.name for checkpoint in self.checkpoints)

    def get(self, name: str | None) -> Checkpoint:
        """The checkpoint called `name`; the default for None.

        Raises `InvalidRequest` for an unknown name; nothing stands in for a named checkpoint.
        """
        if name is None:
            return self.default
        for checkpoint in self.checkpoints:
            if checkpoint.name == name:
                return checkpoint
        raise InvalidRequest("model_unknown", field="model", value=name, known=self.names)

    def with_loaded(self, checkpoint: Checkpoint) -> "ModelCatalog":
        """The same with the loaded `checkpoint` as its files describe it.

        If it is the first one, it no longer has a stand-in.
        """
        checkpoints = tuple(
            checkpoint if old.source == checkpoint.source else old for old in self.checkpoints
        )
        is_first = checkpoint.source == self.checkpoints[0].source
        return ModelCatalog(checkpoints, None if is_first else self.stand_in)


@dataclass(frozen=True)
class CostLimits:
    """Most denoising steps and frames of one video.

    `steps`, `frames`: as the operator set them. By default the limit is that of `VideoParams`, or
    with `checkpoint_limits`, where strangers use paid hardware, the checkpoint's default.
    """

    steps: int | None = None
    frames: int | None = None
    checkpoint_limits: bool = False

    @classmethod
    def from_settings(cls, settings: Settings) -> "CostLimits":
        """The limits for visitors of the page, who are strangers on a Space without login."""
        public = bool(space_url()) and not settings.page_auth
        return cls(settings.max_steps, settings.max_frames, checkpoint_limits=public)

    def max_steps(self, checkpoint: Checkpoint) -> int:
        trained = checkpoint.num_inference_steps if self.checkpoint_limits else None
        return self.steps or trained or MAX_STEPS

    def max_frames(self, checkpoint: Checkpoint) -> int:
        trained = checkpoint.num_frames if self.checkpoint_limits else None
        return self.frames or trained or MAX_NUM_FRAMES

    def limit(self, params: VideoParams, checkpoint: Checkpoint) -> VideoParams:
        """`params` within the limits, to which defaults above them are lowered.

        Raises `InvalidRequest` for a number above its limit.
        """
        defaults = at_speed(checkpoint, params.speed)
        limits = {
            "num_inference_steps": self.max_steps(checkpoint),
            "num_frames": self.max_frames(checkpoint),
        }
        lowered: dict[str, Any] = {}
        for name, most in limits.items():
            value = getattr(params, name)
            if value is not None and value > most:
                raise InvalidRequest("above_server_limit", field=name, most=most, value=value)
            if value is None and getattr(defaults, name) > most:
                lowered[name] = most
        return replace(params, **lowered)
