"""The sources of diffusers that the optimizations stand for are those they were compared with.

When a test here fails, a new diffusers computes something in another way. Compare the optimizations
that the failure names with the new source, then write down its hash, and the new minor version in
`registry.DIFFUSERS` and requirements.txt.
"""

import hashlib
import inspect
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
from diffusers import StableVideoDiffusionPipeline
from diffusers.models.activations import GEGLU
from diffusers.models.attention import (
    BasicTransformerBlock,
    FeedForward,
    TemporalBasicTransformerBlock,
)
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import TemporalDecoder
from diffusers.models.resnet import (
    AlphaBlender,
    ResnetBlock2D,
    SpatioTemporalResBlock,
    TemporalResnetBlock,
)
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from diffusers.models.upsampling import Upsample2D
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
    _resize_with_antialiasing,
)

from svd_core.engine.optimizations.axial_attention import axial_attention
from svd_core.engine.optimizations.device_transfers import (
    SvdPipeline,
    resize_for_clip,
    use_one_way_offload,
)
from svd_core.engine.optimizations.group_norm import group_norm_channels_last
from svd_core.engine.optimizations.guidance import Guidance
from svd_core.engine.optimizations.registry import DIFFUSERS, OPTIMIZATIONS
from svd_core.engine.optimizations.resblocks import (
    blend_in_one_pass,
    folded_upsample,
    fused_temporal_resblock,
    resnet_without_division,
)
from svd_core.engine.optimizations.transformer import (
    chunked_feed_forward,
    fused_qkv_attention,
    pruned_feed_forward,
    single_token_cross_attention,
    transformer_in_token_layout,
)
from svd_core.engine.optimizations.vae_decode import chunked_decode
from svd_core.engine.optimizations.zero_branches import skip_zero_branches
from svd_core.engine.pipeline_loader import open_folder

REQUIREMENTS = Path(__file__).parents[2] / "requirements.txt"

ATTENTION = (
    axial_attention,
    single_token_cross_attention,
    fused_qkv_attention,
    skip_zero_branches,
)
FEED_FORWARD = (chunked_feed_forward, pruned_feed_forward, skip_zero_branches)
BLEND = (blend_in_one_pass, fused_temporal_resblock, chunked_decode)
TEMPORAL = (fused_temporal_resblock, chunked_decode, skip_zero_branches)

SOURCES: list[tuple[Callable[..., Any], str, tuple[Any, ...]]] = [
    (Attention.forward, "e6822ac3500626c7", ATTENTION),
    (AttnProcessor2_0.__call__, "bf23ea5ae4040427", ATTENTION),
    (FeedForward.forward, "dae2c9f53987c25a", FEED_FORWARD),
    (GEGLU.forward, "28ea6dd13c76df98", FEED_FORWARD),
    (AlphaBlender.forward, "10849f2751d5a668", BLEND),
    (AlphaBlender.get_alpha, "ae05d1667e46febc", BLEND),
    (
        ResnetBlock2D.forward,
        "e3f38e1722955caf",
        (resnet_without_division, chunked_decode, skip_zero_branches),
    ),
    (TemporalResnetBlock.forward, "05a7bbf4a3c8ad01", TEMPORAL),
    (SpatioTemporalResBlock.forward, "df3956ccd2b0407b", TEMPORAL),
    (BasicTransformerBlock.forward, "440071576ac5ee6f", (transformer_in_token_layout,)),
    (TemporalBasicTransformerBlock.forward, "7eafa694dd59e03e", (transformer_in_token_layout,)),
    (
        TransformerSpatioTemporalModel.forward,
        "d8df8cea5b87eadc",
        (transformer_in_token_layout, skip_zero_branches),
    ),
    (TemporalDecoder.forward, "102c15f136cfeccb", (chunked_decode,)),
    (Upsample2D.forward, "3c0e13df5e4ac796", (folded_upsample, chunked_decode)),
    (StableVideoDiffusionPipeline.__call__, "dc8bf70786247eee", (SvdPipeline, Guidance)),
    (StableVideoDiffusionPipeline._encode_image, "9ea3217e6cf476b4", (SvdPipeline,)),
    (
        StableVideoDiffusionPipeline.enable_model_cpu_offload,
        "c97798e116d95e54",
        (use_one_way_offload,),
    ),
    (
        StableVideoDiffusionPipeline.maybe_free_model_hooks,
        "0d380a0280ff7f7a",
        (use_one_way_offload,),
    ),
    (_resize_with_antialiasing, "0738b3737773ae31", (resize_for_clip,)),
]
"""A function of diffusers, the start of the SHA-256 of its source, and what assumes that source."""


def complaint(function: Callable[..., Any], known: str, assumed_by: tuple[Any, ...]) -> str | None:
    """What to compare with a function whose source has changed; None where it has not."""
    source = inspect.getsource(function)
    if (digest := hashlib.sha256(source.encode()).hexdigest()[:16]) == known:
        return None
    names = ", ".join(f"{each.__module__}.{each.__qualname__}" for each in assumed_by)
    return (
        f"{function.__qualname__} of diffusers {diffusers.__version__} has another source "
        f"({digest}) than {names} assume"
    )


@pytest.mark.parametrize(
    ("function", "known", "assumed_by"), SOURCES, ids=[each[0].__qualname__ for each in SOURCES]
)
def test_a_source_is_the_one_that_was_compared(
    function: Callable[..., Any], known: str, assumed_by: tuple[Any, ...]
) -> None:
    assert complaint(function, known, assumed_by) is None


def test_a_change_names_the_function_and_the_optimizations_that_assume_it() -> None:
    sentence = complaint(GEGLU.forward, "0" * 16, FEED_FORWARD)
    assert sentence is not None
    assert "GEGLU.forward" in sentence
    assert "chunked_feed_forward, " in sentence


def test_every_optimization_names_the_sources_that_it_assumes() -> None:
    named = {each for _, _, assumed_by in SOURCES for each in assumed_by}
    of_torch = {group_norm_channels_last}
    assert {each.rewrite for each in OPTIMIZATIONS.values()} - of_torch <= named


def test_the_requirements_ask_for_the_tested_minor_version() -> None:
    major, minor = map(int, DIFFUSERS.split("."))
    wanted = rf"^diffusers>={major}\.{minor}\.\d+,<{major}\.{minor + 1}\b"
    assert re.search(wanted, REQUIREMENTS.read_text(), re.MULTILINE)


def test_another_minor_version_is_named_in_the_log(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        open_folder(tiny_checkpoint, False, lambda *_: None)
        assert caplog.messages == []
        monkeypatch.setattr(diffusers, "__version__", "0.43.0")
        open_folder(tiny_checkpoint, False, lambda *_: None)
    (sentence,) = caplog.messages
    assert "diffusers 0.43.0" in sentence
    assert "requirements.txt" in sentence
