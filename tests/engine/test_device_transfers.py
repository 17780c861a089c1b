"""The pipeline that leaves nothing to the wrong device."""

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image

from svd_core.engine.optimizations.device_transfers import (
    CLIP_SIZE,
    SvdPipeline,
    resize_for_clip,
)
from svd_core.engine.pipeline_loader import open_folder

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
    ours = resize_for_clip(stock.video_processor, PHOTO, "cpu")
    assert ours.shape == (1, 3, *CLIP_SIZE)
    assert (ours - shown[0]).abs().max() < 2e-5
    assert (stock._encode_image(ours, "cpu", 1, False) - usual).abs().max() < 1e-4


def test_on_cuda_it_is_shrunk_there(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as that can be seen without one: stock is handed a small tensor, not the photo."""
    handed: list[Any] = []
    monkeypatch.setattr(
        StableVideoDiffusionPipeline, "_encode_image", lambda _, image, *__: handed.append(image)
    )
    monkeypatch.setattr(
        "svd_core.engine.optimizations.device_transfers.resize_for_clip", lambda *given: given
    )
    pipeline._encode_image(PHOTO, "cuda", 1, False)
    pipeline._encode_image(PHOTO, "cpu", 1, False)
    assert handed == [(pipeline.video_processor, PHOTO, "cuda"), PHOTO]


@pytest.fixture
def offloaded(pipeline: Any) -> Any:
    """By model, with tensors without numbers for a GPU: what goes there cannot come back."""
    pipeline.enable_model_cpu_offload(device="cpu")
    for hook in pipeline._all_hooks:
        hook.hook.execution_device = torch.device("meta")
    return pipeline


def whereabouts(pipeline: Any) -> dict[str, tuple[str, int]]:
    """Device and address of each weight and buffer."""
    return {
        f"{part}.{name}": (tensor.device.type, tensor.data_ptr())
        for part in ("image_encoder", "unet", "vae")
        for model in [getattr(pipeline, part)]
        for name, tensor in chain(model.named_parameters(), model.named_buffers())
    }


def devices(pipeline: Any) -> list[str]:
    parts = (pipeline.image_encoder, pipeline.unet, pipeline.vae)
    return [next(part.parameters()).device.type for part in parts]


def call_each(pipeline: Any) -> list[list[str]]:
    """Have them called one after the other. Returns where all were when each was done."""
    unet, were = pipeline.unet.config, []
    with torch.no_grad():
        pipeline.image_encoder(torch.zeros(1, 3, *CLIP_SIZE))
        were.append(devices(pipeline))
        tokens = torch.zeros(1, 1, unet.cross_attention_dim)
        latents = torch.zeros(1, 2, unet.in_channels, 8, 8)
        pipeline.unet(latents, torch.tensor(1.0), tokens, torch.zeros(1, 3))
        were.append(devices(pipeline))
        pipeline.vae.decode(torch.zeros(2, 4, 8, 8, device="meta"), num_frames=2)
        were.append(devices(pipeline))
    return were


def test_with_model_offload_one_works_and_the_others_wait(offloaded: Any) -> None:
    """The image encoder, the UNet, the VAE."""
    before = whereabouts(offloaded)
    assert devices(offloaded) == ["cpu", "cpu", "cpu"]
    assert call_each(offloaded) == [
        ["meta", "cpu", "cpu"],
        ["cpu", "meta", "cpu"],
        ["cpu", "cpu", "meta"],
    ]
    offloaded.maybe_free_model_hooks()
    assert whereabouts(offloaded) == before  # as it was, without anything copied back


def test_weights_that_wait_come_back_when_the_hooks_go(offloaded: Any) -> None:
    before = whereabouts(offloaded)
    with torch.no_grad():
        offloaded.image_encoder(torch.zeros(1, 3, *CLIP_SIZE))
    assert devices(offloaded)[0] == "meta"
    offloaded.remove_all_hooks()
    assert whereabouts(offloaded) == before
