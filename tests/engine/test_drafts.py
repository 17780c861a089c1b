"""A draft of fewer steps moves like the full video of its seed: choosing among four rests on it."""

import numpy as np
import pytest
from PIL import Image

from svd_core.checkpoints.table import ASSETS, CHECKPOINTS
from svd_core.engine.engine import SvdEngine
from svd_core.media.image import frame_photo
from svd_core.media.motion_meter import Flow, flow_between
from svd_core.params import VideoParams
from svd_core.web.page.batch import draft_steps

FULL = 3


@pytest.mark.parametrize(("steps", "few"), [(25, 10), (30, 12), (4, 2), (2, 1), (1, 1)])
def test_a_draft_takes_less_than_half_of_the_steps(steps: int, few: int) -> None:
    assert draft_steps(steps) == few


@pytest.mark.slow
def test_the_full_video_moves_the_way_its_draft_did() -> None:
    with Image.open(ASSETS / "examples" / "coffee.jpg") as photo:
        framed = frame_photo(photo.convert("RGB"), CHECKPOINTS["svd-nano"].sizes, VideoParams())
    engine = SvdEngine("svd-nano")

    def flow(seed: int, steps: int) -> Flow:
        params = VideoParams(seed=seed, num_frames=4, num_inference_steps=steps)
        clip = engine.generate(framed.image, params, lambda _: None)
        grey = clip.frames[:, ::8, ::8].mean(axis=-1).astype(np.float32)
        return flow_between(grey[:-1], grey[1:])

    draft, full = flow(3, draft_steps(FULL)), flow(3, FULL)
    other = flow(4, FULL)
    # One step of three; measured 0.78 for the same seed, and 0.11 for another.
    assert alike(draft, full) > 0.6
    assert alike(draft, other) < 0.4


def alike(one: Flow, other: Flow) -> float:
    """Whether two clips move the same way: 1 exactly so, 0 not at all, -1 the other way."""
    return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))
