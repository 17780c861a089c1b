"""Server catalog: the checkpoints that requests may name, and the cost limits of one video.

`VideoParams` says what a video can be at all; here stands what this server offers to its visitors.
"""

import os
from dataclasses import dataclass, replace

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
        """The checkpoints that `SVD_MODEL` names: one for `find_checkpoint`, or several, comma
        separated. Nothing is downloaded.

        Raises what `find_checkpoint` raises, and `InvalidSettings` for several that do not go
        together.
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
        """Names that a request may ask for."""
        return tuple(checkpoint.name for checkpoint in self.checkpoints)

    def get(self, name: str | None) -> Checkpoint:
        """The checkpoint called `name`; the default for None.

        Raises `InvalidRequest`: nothing stands in for a checkpoint that was asked for by name.
        """
        if name is None:
            return self.default
        for checkpoint in self.checkpoints:
            if checkpoint.name == name:
                return checkpoint
        raise InvalidRequest("model_unknown", field="model", value=name, known=self.names)

    def with_loaded(self, checkpoint: Checkpoint) -> "ModelCatalog":
        """The same with `checkpoint` as its files describe it, now that it is loaded.

        If it is the first one, nothing stands in for that any more.
        """
        checkpoints = tuple(
            checkpoint if old.source == checkpoint.source else old for old in self.checkpoints
        )
        is_first = checkpoint.source == self.checkpoints[0].source
        return ModelCatalog(checkpoints, None if is_first else self.stand_in)


@dataclass(frozen=True)
class CostLimits:
    """Most denoising steps and frames of one video.

    `steps`, `frames`: the operator's numbers. Without one, the limit is that of `VideoParams`, or
    with `checkpoint_limits` the checkpoint's own number: there strangers use paid hardware.
    """

    steps: int | None = None
    frames: int | None = None
    checkpoint_limits: bool = False

    @classmethod
    def from_settings(cls, settings: Settings) -> "CostLimits":
        """Those for visitors of the page, who are strangers on a Space without login."""
        public = bool(space_url()) and not settings.page_auth
        return cls(settings.max_steps, settings.max_frames, checkpoint_limits=public)

    def max_steps(self, checkpoint: Checkpoint) -> int:
        """Most denoising steps of a video of `checkpoint`."""
        trained = checkpoint.num_inference_steps if self.checkpoint_limits else None
        return self.steps or trained or MAX_STEPS

    def max_frames(self, checkpoint: Checkpoint) -> int:
        """Most frames of a video of `checkpoint`."""
        trained = checkpoint.num_frames if self.checkpoint_limits else None
        return self.frames or trained or MAX_NUM_FRAMES

    def limit(self, params: VideoParams, checkpoint: Checkpoint) -> VideoParams:
        """`params` within the limits: a number that they leave open is lowered to the limit.

        Raises `InvalidRequest` for a number above it.
        """
        defaults = at_speed(checkpoint, params.speed)
        steps, frames = self.max_steps(checkpoint), self.max_frames(checkpoint)
        return replace(
            params,
            num_inference_steps=_limit(
                "num_inference_steps",
                params.num_inference_steps,
                defaults.num_inference_steps,
                steps,
            ),
            num_frames=_limit("num_frames", params.num_frames, defaults.num_frames, frames),
        )


def _limit(name: str, value: int | None, default: int, most: int) -> int | None:
    """`value`, or for None the limit where `default` is above it."""
    if value is None:
        return None if default <= most else most
    if value > most:
        raise InvalidRequest("above_server_limit", field=name, most=most, value=value)
    return value
