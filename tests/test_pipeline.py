"""The pipeline that leaves nothing to the wrong device."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image

from svd_core.fast import assumed
from svd_core.fast.pipeline import SEEN, STOCK, SvdPipeline, pipeline_class, small
from svd_core.loading import open_folder

PHOTO = Image.effect_mandelbrot((512, 288), (-2, -1, 1, 1), 50).convert("RGB")


@pytest.fixture
def pipeline(tiny_checkpoint: Path) -> Any:
    return open_folder(tiny_checkpoint, False, lambda *_: None)


def test_a_folder_is_opened_as_ours(pipeline: Any) -> None:
    assert type(pipeline) is SvdPipeline


@pytest.mark.parametrize(("most", "guided"), [(1.0, False), (3.0, True)])
def test_guidance_is_not_asked_of_the_device(pipeline: Any, most: float, guided: bool) -> None:
    pipeline._guidance_scale = most
    assert pipeline.do_classifier_free_guidance is guided
    pipeline._guidance_scale = torch.empty(2, device="meta")  # which holds no numbers to look at
    assert pipeline.do_classifier_free_guidance is guided


def test_the_image_encoder_is_shown_what_stock_shows_it(pipeline: Any) -> None:
    """But for a two-hundredth of a level of 255: stock finds its places between pixels in floats.
    Half precision, in which CLIP sees it on CUDA, is coarser by far."""
    shown: list[torch.Tensor] = []
    stock = StableVideoDiffusionPipeline(**pipeline.components)
    extract = stock.feature_extractor

    def looked_at(images: torch.Tensor, **more: Any) -> Any:
        shown.append(images)
        return extract(images=images, **more)

    stock.feature_extractor = looked_at
    usual = stock._encode_image(PHOTO, "cpu", 1, False)
    ours = small(stock.video_processor, PHOTO, "cpu")
    assert ours.shape == (1, 3, *SEEN)
    assert (ours - shown[0]).abs().max() < 2e-5
    assert (stock._encode_image(ours, "cpu", 1, False) - usual).abs().max() < 1e-4


def test_on_cuda_it_is_shrunk_there(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as that can be seen without one: stock is handed a small tensor, not the photo."""
    handed: list[Any] = []
    monkeypatch.setattr(
        StableVideoDiffusionPipeline, "_encode_image", lambda _, image, *__: handed.append(image)
    )
    monkeypatch.setattr("svd_core.fast.pipeline.small", lambda *given: given)
    pipeline._encode_image(PHOTO, "cuda", 1, False)
    pipeline._encode_image(PHOTO, "cpu", 1, False)
    assert handed == [(pipeline.video_processor, PHOTO, "cuda"), PHOTO]


def test_another_diffusers_means_its_own_pipeline_and_a_sentence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert assumed.changed(STOCK) == []
    monkeypatch.setattr(assumed, "fingerprint", lambda _: "")
    assert pipeline_class() is StableVideoDiffusionPipeline
    assert "_encode_image" in caplog.messages[0]
