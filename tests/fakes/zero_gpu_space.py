"""Runs `app.py` as a ZeroGPU Space would, with the real `spaces` and a CPU dressed as the GPU.

Only what needs a driver is stood in for: that torch was built for CUDA, and in the worker the
start of CUDA, after which "cuda" means the CPU.
"""

import runpy
import sys
from pathlib import Path

import torch

PAGE = 4096


def dress() -> None:
    """Give torch what only a build for CUDA has, and `spaces` looks at."""
    torch.version.cuda = "12.8"
    torch._C._cuda_init = None
    torch.cuda._is_in_bad_fork = bool  # which says False, and can be sent to another process
    import spaces.zero.torch

    spaces.zero.torch.init = start_cuda


def start_cuda(_: str) -> None:
    """In the worker, in place of the driver's start: a tensor goes to "cuda" by being copied."""
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor.clone()
    torch.Tensor.pin_memory = pinned
    torch.cuda.synchronize = lambda *_: None
    torch.tensor, torch.empty = on_cpu(torch.tensor), on_cpu(torch.empty)


def pinned(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that begins with a page, as pinned memory does: files are read straight into it."""
    room = torch.zeros(tensor.nbytes + PAGE, dtype=torch.uint8)
    start = -room.data_ptr() % PAGE
    return room[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)


def on_cpu(create):
    return lambda *args, **kwargs: create(*args, **kwargs | {"device": "cpu"})


if __name__ == "__main__":
    root = Path(__file__).parents[2]
    sys.path.insert(0, str(root))
    dress()
    runpy.run_path(str(root / "app.py"), run_name="__main__")
