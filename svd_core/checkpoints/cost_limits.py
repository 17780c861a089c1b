"""Cost limits: the most steps and frames that one video may have on a server.

`LIMITS` says what a video can be at all; this says what a visitor may ask for. Without numbers the
former is the limit, and where strangers use paid hardware (`own`) the checkpoint's own numbers are.
"""

from dataclasses import dataclass, replace

from svd_core.checkpoints.speed_modes import at_speed
from svd_core.checkpoints.table import Checkpoint
from svd_core.errors import InvalidRequest
from svd_core.params import LIMITS, VideoParams
from svd_core.settings import Settings, space_url


@dataclass(frozen=True)
class CostLimits:
    """`steps`, `frames`: the most of one video; None: see `own`."""

    steps: int | None = None
    frames: int | None = None
    checkpoint_limits: bool = False

    @classmethod
    def from_settings(cls, settings: Settings) -> "CostLimits":
        """For visitors of the page. On a Space without login these are strangers."""
        public = bool(space_url()) and not settings.page_auth
        return cls(settings.max_steps, settings.max_frames, checkpoint_limits=public)

    def max_steps(self, checkpoint: Checkpoint) -> int:
        own = checkpoint.num_inference_steps if self.checkpoint_limits else None
        return self.steps or own or int(LIMITS["num_inference_steps"].maximum)

    def max_frames(self, checkpoint: Checkpoint) -> int:
        own = checkpoint.num_frames if self.checkpoint_limits else None
        return self.frames or own or int(LIMITS["num_frames"].maximum)

    def limit(self, params: VideoParams, checkpoint: Checkpoint) -> VideoParams:
        """`params` if they cost no more than is allowed, with less where the checkpoint's own
        number, which they leave open, is more. Raises `InvalidRequest` for what asks for more.
        """
        own = at_speed(checkpoint, params.speed)
        steps, frames = self.max_steps(checkpoint), self.max_frames(checkpoint)
        return replace(
            params,
            num_inference_steps=_limit(
                "num_inference_steps", params.num_inference_steps, own.num_inference_steps, steps
            ),
            num_frames=_limit("num_frames", params.num_frames, own.num_frames, frames),
        )


def _limit(name: str, asked: int | None, own: int, most: int) -> int | None:
    if asked is None:
        return None if own <= most else most
    if asked > most:
        raise InvalidRequest(name, f"{name} may be at most {most} on this server, not {asked}.")
    return asked
