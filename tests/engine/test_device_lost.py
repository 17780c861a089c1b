"""Lost device: a GPU that fails while a model is placed or a video made has its own error."""

from pathlib import Path
from typing import Any

import pytest

from svd_core.engine import loaded_model
from svd_core.engine.engine import SvdEngine
from svd_core.errors import DeviceLost, GenerationFailed
from tests.fakes.errors import has_code
from tests.fakes.gpu_sizes import gpu_of, levels, make, pipeline_of

ILLEGAL = "CUDA error: an illegal memory access was encountered"


@pytest.mark.parametrize(
    ("offload", "part"),
    [
        pytest.param("none", "vae", marks=pytest.mark.slow),
        ("model", "unet"),
        pytest.param("sequential", "vae", marks=pytest.mark.slow),
    ],
)
def test_a_lost_gpu_is_told_from_a_model_that_failed(
    tiny_checkpoint: Path, offload: Any, part: str
) -> None:
    """The context of CUDA is gone after the one, and works on after the other."""
    with gpu_of(80) as gpu:
        engine = SvdEngine(str(tiny_checkpoint), offload)
        first = make(engine)
        pipeline = pipeline_of(engine)
        layer = pipeline.unet.mid_block if part == "unet" else pipeline.vae.decoder.mid_block

        def fail(*_: Any) -> None:
            raise RuntimeError("CUDA error: invalid argument")

        hook = layer.register_forward_pre_hook(fail)
        with pytest.raises(GenerationFailed, match="The model failed: CUDA error: invalid"):
            make(engine)
        hook.remove()
        assert levels(first, make(engine)) == 0

        def lose(*_: Any) -> None:
            gpu.lost = True

        layer.register_forward_pre_hook(lose)
        with pytest.raises(DeviceLost, check=has_code("gpu_lost", reason=ILLEGAL)) as caught:
            make(engine)
        assert "\n" not in caught.value.message
        with pytest.raises(DeviceLost):  # for good
            make(engine)


def test_a_gpu_that_is_lost_while_weights_are_placed(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gpu_of(80) as gpu:

        def place(*_: Any) -> None:
            gpu.lost = True
            raise RuntimeError(ILLEGAL)

        monkeypatch.setattr(loaded_model, "place", place)
        engine = SvdEngine(str(tiny_checkpoint))
        with pytest.raises(DeviceLost) as caught:
            engine.load(lambda _: None)
        assert (engine.status.state, engine.status.notice) == ("failed", caught.value.message)
