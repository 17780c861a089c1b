"""Device transfers of the SVD pipeline: one-way CPU offload, and no needless synchronization.

`SvdPipeline` gives the same results as stock and avoids three costs. Stock blurs and shrinks the
photo for the image encoder on the CPU, which takes a tenth of a second. Twice a step it waits for a
tensor on the GPU to know whether there is guidance. With model offload it copies unchanged weights
back. (The latents are still read once a step, for progress and for a stop.)
"""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.hooks import CpuOffload, UserCpuOffloadHook, add_hook_to_module
from accelerate.utils.memory import clear_device_cache
from accelerate.utils.operations import send_to_device
from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as theirs
from torch import Tensor

from svd_core.engine.optimizations.block_offload import BlockHook, BlockStream, weights_of
from svd_core.engine.optimizations.kernels import Kernels

_THEIRS: Any = theirs
_STOCK: Any = theirs.StableVideoDiffusionPipeline

CLIP_SIZE = (224, 224)
"""Height and width of CLIP's input."""


class SvdPipeline(_STOCK):  # type: ignore[misc]
    """`StableVideoDiffusionPipeline`, of the same parts and with the same results.

    `kernels`: those to use when it is placed. `unet_stream`: the UNet's blocks with sequential
    offload.
    """

    kernels = Kernels()
    unet_stream: BlockStream | None = None
    _guided = False
    _all_hooks: list[UserCpuOffloadHook]

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the largest guidance is above 1, kept from when it was a plain number.

        Before the first step, stock replaces it by a tensor of each frame's guidance.
        """
        if not isinstance(self.guidance_scale, Tensor):
            self._guided = self.guidance_scale > 1
        return self._guided

    def enable_sequential_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Model offload, but block by block for the UNet. `device` must be given by keyword."""
        self.remove_all_hooks()
        self.unet_stream = BlockStream(self.unet, kwargs["device"])
        self.enable_model_cpu_offload(*args, **kwargs)

    def enable_model_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Stock's model offload, one way; with `unet_stream`, of the other models only."""
        super().enable_model_cpu_offload(*args, **kwargs)
        self._all_hooks = use_one_way_offload(self._all_hooks, self.unet_stream)

    def _encode_image(self, image: Any, device: torch.device | str, *args: Any) -> Tensor:
        if torch.device(device).type == "cuda":
            image = resize_for_clip(self.video_processor, image, device)
        return super()._encode_image(image, device, *args)


def resize_for_clip(processor: Any, image: Any, device: torch.device | str) -> Tensor:
    """A PIL image resized on `device`, as stock does before CLIP's own preprocessing.

    The result, (1, 3, *CLIP_SIZE) in 0..1, is on the CPU. Double precision, since convolutions of
    floats on CUDA may round as TF32.
    """
    pixels = processor.numpy_to_pt(processor.pil_to_numpy(image)).to(device, torch.float64)
    small: Tensor = _THEIRS._resize_with_antialiasing(pixels * 2 - 1, CLIP_SIZE)
    return ((small + 1) / 2).float().cpu()


class OneWayCpuOffload(CpuOffload):  # type: ignore[misc]
    """Accelerate's hook for model offload, without the copy back to main memory.

    The weights stay in main memory, and their copy on the GPU is dropped to make room for the next
    model. For every video that saves a copy of SVD-XT's 4.7 GB (in half precision), and the memory
    for it. Invariants: nothing changes the weights while the copy exists, and only one model is on
    the GPU at a time. (Stock leaves the VAE there beside the UNet.) `others`: hooks of the other
    models.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.others: list[UserCpuOffloadHook] = []
        self._waiting: list[tuple[dict[str, Any], str, Tensor, Tensor]] = []

    @property
    def on_gpu(self) -> bool:
        """Whether a copy is on the GPU."""
        return bool(self._waiting)

    def init_hook(self, module: Any) -> Any:
        """Restore the weights in main memory, which drops the copy."""
        for owner, name, tensor, numbers in self._waiting:
            owner[name] = tensor
            tensor.data = numbers
        self._waiting = []
        return module

    def detach_hook(self, module: Any) -> Any:
        """The same as `init_hook`, when the hook is removed."""
        return self.init_hook(module)

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        """Copy the weights of `module` to the GPU, after dropping those of all others."""
        self.drop_others()
        if not self._waiting:
            self._waiting = [(*each, each[-1].data) for each in weights_of(module.modules())]
        return super().pre_forward(module, *args, **kwargs)

    def drop_others(self) -> None:
        """Drop the copies of all other models."""
        on_gpu = [other for other in self.others if other.hook.on_gpu]
        for other in on_gpu:
            other.offload()
        if on_gpu:
            clear_device_cache()


class StreamedOffload(OneWayCpuOffload):
    """Offload of a model whose blocks are copied to the GPU one by one."""

    def __init__(self, stream: BlockStream) -> None:
        super().__init__(stream.device)
        self._stream = stream

    @property
    def on_gpu(self) -> bool:
        """Whether there is room for blocks on the GPU."""
        return self._stream.is_active

    def init_hook(self, module: Any) -> Any:
        """Drop the blocks that are there."""
        self._stream.stop()
        return module

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        """Make room for blocks, after dropping the weights of all other models."""
        self.drop_others()
        self._stream.start()
        device = self._stream.device
        return send_to_device(args, device), send_to_device(kwargs, device)


def use_one_way_offload(
    hooks: Sequence[UserCpuOffloadHook], unet: BlockStream | None = None
) -> list[UserCpuOffloadHook]:
    """Replace Accelerate's hooks by `OneWayCpuOffload`s that know of each other.

    `unet`: for a UNet that is offloaded block by block.
    """
    one_way: list[UserCpuOffloadHook] = []
    for hook in hooks:
        offload = OneWayCpuOffload(hook.hook.execution_device)
        if unet is not None and hook.model is unet.model:
            offload = StreamedOffload(unet)
        add_hook_to_module(hook.model, offload)
        one_way.append(UserCpuOffloadHook(hook.model, offload))
    if unet is not None:
        for number, module in enumerate(unet.modules):
            add_hook_to_module(module, BlockHook(unet, number))
    for hook in one_way:
        hook.hook.others = [other for other in one_way if other is not hook]
    return one_way
