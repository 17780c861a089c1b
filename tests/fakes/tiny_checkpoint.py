"""A random Stable Video Diffusion checkpoint of the stock classes, small enough for every test."""

import json
from pathlib import Path

from PIL import Image

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
NUM_FRAMES = 3
SIZES = ((64, 32), (32, 64))
PHOTO = Image.effect_noise(SIZES[0], 80).convert("RGB")

PREPROCESSOR = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": CLIP_MEAN,
    "image_processor_type": "CLIPImageProcessor",
    "image_std": CLIP_STD,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 224},
}
"""As the published checkpoints have it: of a class that wants torchvision."""


def build(folder: Path) -> Path:
    """Write the checkpoint with the published names: each part's weights whole and as fp16."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = _parts()
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        if name != "scheduler":
            part.half().save_pretrained(folder / name, variant="fp16")
    (folder / "feature_extractor").mkdir()
    write(folder / "feature_extractor" / "preprocessor_config.json", PREPROCESSOR)
    write(
        folder / "model_index.json",
        {
            "_class_name": "StableVideoDiffusionPipeline",
            "_diffusers_version": "0.24.0.dev0",
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
            "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
            "vae": ["diffusers", "AutoencoderKLTemporalDecoder"],
        },
    )
    write(folder / "svd.json", {"sizes": SIZES, "num_inference_steps": 2})
    return folder


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2))


def _parts():
    from diffusers import (
        AutoencoderKLTemporalDecoder,
        UNetSpatioTemporalConditionModel,
    )
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    from svd_core.benchmarks.random_models import scheduler

    return {
        "unet": UNetSpatioTemporalConditionModel(
            sample_size=8,
            in_channels=8,
            out_channels=4,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            block_out_channels=(32, 32),
            layers_per_block=1,
            cross_attention_dim=16,
            num_attention_heads=2,
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24,
            num_frames=NUM_FRAMES,
        ),
        "vae": AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * 4,
            block_out_channels=(32, 32, 32, 32),
            layers_per_block=1,
            latent_channels=4,
            sample_size=64,
        ),
        "image_encoder": CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=16,
                intermediate_size=32,
                projection_dim=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=224,
                patch_size=32,
            )
        ),
        "scheduler": scheduler(),
    }
