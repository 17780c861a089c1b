"""`StableVideoDiffusionPipeline` without needless transfers and synchronizations.

Beside the GPU it blurs and shrinks the photo for the image encoder on the CPU, a tenth of a second,
and twice a step it asks a tensor on the GPU whether there is guidance at all, and waits for that.
(One look at the latents a step stays: that is how far a video is, and whether it may stop.) And
with model offload it takes back to the CPU what never left it; see `cpu_offload`.
"""

from typing import Any

import torch
from accelerate.hooks import UserCpuOffloadHook
from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as theirs
from torch import Tensor

from svd_core.engine.optimizations.cpu_offload import use_one_way_offload

_THEIRS: Any = theirs
_STOCK: Any = theirs.StableVideoDiffusionPipeline

CLIP_SIZE = (224, 224)
"""Height and width of what CLIP looks at."""


class SvdPipeline(_STOCK):  # type: ignore[misc]
    """`StableVideoDiffusionPipeline`, of the same parts and with the same answers."""

    _guided = False
    _all_hooks: list[UserCpuOffloadHook]

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Stock has the largest guidance as a number first, then each frame's in a tensor."""
        if not isinstance(self.guidance_scale, Tensor):
            self._guided = self.guidance_scale > 1
        return self._guided

    def enable_model_cpu_offload(self, *given: Any, **more: Any) -> None:
        super().enable_model_cpu_offload(*given, **more)
        self._all_hooks = use_one_way_offload(self._all_hooks)

    def _encode_image(self, image: Any, device: torch.device | str, *more: Any) -> Tensor:
        if torch.device(device).type == "cuda":
            image = resize_for_clip(self.video_processor, image, device)
        embeddings: Tensor = super()._encode_image(image, device, *more)
        return embeddings


def resize_for_clip(processor: Any, image: Any, device: torch.device | str) -> Tensor:
    """What stock makes of a PIL image before CLIP's own preprocessing: (1, 3, *SEEN) in 0..1, made
    on `device`. In double precision, since convolutions of floats on CUDA may round as TF32."""
    pixels = processor.numpy_to_pt(processor.pil_to_numpy(image)).to(device, torch.float64)
    shrunk: Tensor = _THEIRS._resize_with_antialiasing(pixels * 2 - 1, CLIP_SIZE)
    return ((shrunk + 1) / 2).float().cpu()
