"""Architecture of svd-nano: stock diffusers classes with small numbers, saved to one folder."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from svd_core.benchmarks.random_models import scheduler

Net = Any
"""A torch module of diffusers or transformers; their layers are invisible to type checkers."""

NUM_FRAMES = 14
SIZES = ((512, 288), (288, 512), (384, 384))
"""(width, height) in pixels, all with the same number of pixels."""

LATENT_CHANNELS = 16
PATCH = 4
"""Side in pixels of a latent cell. SVD's VAE has cells of 8 pixels. Such a small decoder could not
restore details from them; 16 numbers for 4x4 pixels keep nearly all of them."""

UNET_WIDTH = 96
"""Channels at every level: 32 norm groups of three, see `handwritten_layers`."""

LEVELS = 4
"""Levels, with cells of 4, 8, 16 and 32 pixels. Only the first moves the picture."""

HEADS = 6
"""Attention heads. Each fetches the 16 numbers of one cell, see `warp_attention`."""

VAE_CHANNELS = (96, 64, 96)
"""Channels per level, full resolution first. The decoder ends with three channels per group: with
fewer, GroupNorm would remove the brightness of a picture."""

CLIP_WIDTH = 32
SIGMA_MIN, SIGMA_MAX = 300.0, 700.0


def unet() -> Net:
    """UNet with attention at the outermost level, which moves the picture, and where required."""
    return UNetSpatioTemporalConditionModel(  # type: ignore[no-untyped-call]
        sample_size=64,
        in_channels=2 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlockSpatioTemporal",) * LEVELS,
        up_block_types=(
            *("UpBlockSpatioTemporal",) * (LEVELS - 1),
            "CrossAttnUpBlockSpatioTemporal",
        ),
        block_out_channels=(UNET_WIDTH,) * LEVELS,
        layers_per_block=1,
        transformer_layers_per_block=(2,) + (1,) * (LEVELS - 1),
        cross_attention_dim=CLIP_WIDTH,
        num_attention_heads=HEADS,
        addition_time_embed_dim=64,
        projection_class_embeddings_input_dim=192,
        num_frames=NUM_FRAMES,
    )


def vae() -> Net:
    """VAE whose latents enter the UNet unscaled (`scaling_factor` 1), with variance about 1."""
    return AutoencoderKLTemporalDecoder(  # type: ignore[no-untyped-call]
        down_block_types=("DownEncoderBlock2D",) * len(VAE_CHANNELS),
        block_out_channels=VAE_CHANNELS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        sample_size=512,
        scaling_factor=1.0,
        force_upcast=False,
    )


def image_encoder() -> Net:
    config = CLIPVisionConfig(
        hidden_size=CLIP_WIDTH,
        intermediate_size=4 * CLIP_WIDTH,
        projection_dim=CLIP_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=224,
        patch_size=32,
    )
    return CLIPVisionModelWithProjection(config)


def nets() -> dict[str, Net]:
    """The three nets with fresh weights, by their names in a pipeline."""
    return {"unet": unet(), "image_encoder": image_encoder(), "vae": vae()}


def save(folder: Path, trained: dict[str, Net], dials: dict[str, Any]) -> None:
    """Write a checkpoint folder, and `svd.json` with the settings that the app reads.

    `trained`: as of `nets`; each is copied, not changed. The UNet stays in single precision, since
    its places differ by fractions of a cell. So does the image encoder, whose precision plain
    diffusers carries into the UNet.
    """
    copies = nets()
    for name, module in copies.items():
        module.load_state_dict(trained[name].state_dict())
        module.to(torch.float16 if name == "vae" else torch.float32)
    pipeline: Any = StableVideoDiffusionPipeline(  # type: ignore[no-untyped-call]
        **copies,
        scheduler=scheduler(SIGMA_MIN, SIGMA_MAX),
        feature_extractor=CLIPImageProcessorPil(),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    (folder / "svd.json").write_text(json.dumps(dials, indent=2) + "\n")
