"""Streamed block offload: the blocks of a UNet are copied to the GPU one by one, ahead of time.

The weights of a block are one piece of pinned main memory, and the GPU has room for two blocks.
Copies have a stream of their own, so a block is copied while the one before it works. Nothing is
copied back. diffusers' group offloading waits for each copy on the CPU, and its blocks are whole
levels of the UNet, which take three times the memory.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.hooks import ModelHook
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import SpatioTemporalResBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

BLOCKS = (SpatioTemporalResBlock, TransformerSpatioTemporalModel, Downsample2D, Upsample2D)

ALIGNMENT = 256
"""Alignment in bytes of each weight in the memory of its block, as of CUDA's own allocations."""

SLOTS = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """The place of a weight: `owner[name]` holds it, `start` is its offset in its block."""

    owner: dict[str, Any]
    name: str
    weight: Tensor
    start: int


class Block:
    """The weights of `modules` in one piece of main memory, and their copy on the GPU, if any."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.places: list[Place] = []
        end = 0
        for owner, name, weight in weights_of(modules):
            self.places.append(Place(owner, name, weight, end))
            end += -(-weight.nbytes // ALIGNMENT) * ALIGNMENT
        self.memory = _pinned(end)
        for place in self.places:
            view = _view(self.memory, place)
            view.copy_(place.weight.data)
            place.weight.data = view

    def put(self, memory: Tensor) -> None:
        """Have the modules use their copy in `memory` on the GPU."""
        for place in self.places:
            view: Any = _view(memory, place)
            if isinstance(place.weight, nn.Parameter):
                view = nn.Parameter(view, requires_grad=False)
            place.owner[place.name] = view

    def restore(self) -> None:
        """Have the modules use their weights in main memory again."""
        for place in self.places:
            place.owner[place.name] = place.weight


class BlockStream:
    """The blocks of `model`, which are copied to `device` one by one between `start` and `stop`.

    They may be used in any order, one at a time. `modules`: the blocks, which need a `BlockHook`.
    """

    def __init__(self, model: nn.Module, device: torch.device | str) -> None:
        self.model, self.device = model, torch.device(device)
        self.modules = [module for module in model.modules() if isinstance(module, BLOCKS)]
        self._blocks = [Block(module.modules()) for module in self.modules]
        inside = {part for module in self.modules for part in module.modules()}
        self._rest = Block(part for part in model.modules() if part not in inside)
        self._slots: list[Tensor] = []
        self._in_slot: list[int | None] = []

    @property
    def is_active(self) -> bool:
        return bool(self._slots)

    def start(self) -> None:
        """Make room on the GPU, and copy the weights that belong to no block."""
        if self.is_active:
            return
        cuda: Any = torch.cuda
        size = max((len(block.memory) for block in self._blocks), default=0)
        room = [torch.empty(size, dtype=torch.uint8, device=self.device) for _ in range(SLOTS)]
        rest = torch.empty(len(self._rest.memory), dtype=torch.uint8, device=self.device)
        rest.copy_(self._rest.memory, non_blocking=True)
        self._rest.put(rest)
        self._stream = cuda.Stream(self.device)
        self._stream.wait_stream(cuda.current_stream(self.device))
        self._copied, self._used = ([cuda.Event() for _ in room] for _ in range(2))
        self._slots, self._in_slot = room, [None for _ in room]
        self._last = 0

    def stop(self) -> None:
        """Drop all copies on the GPU, also in the middle of a pass."""
        for block in (*self._blocks, self._rest):
            block.restore()
        slots, self._slots, self._in_slot = self._slots, [], []
        if slots:  # otherwise their memory could be reused while it is written
            torch.cuda.current_stream(self.device).wait_stream(self._stream)

    def enter(self, number: int) -> None:
        """Copy block `number` to the GPU before it works, unless it is there."""
        if number in self._in_slot:
            self._last = self._in_slot.index(number)
        else:
            self._last = (self._last + 1) % SLOTS
            self._copy(number, self._last)
        slot = self._last
        torch.cuda.current_stream(self.device).wait_event(self._copied[slot])
        self._blocks[number].put(self._slots[slot])

    def leave(self, number: int) -> None:
        """Free the slot of block `number` for others once the GPU has done its work."""
        self._used[self._last].record(torch.cuda.current_stream(self.device))
        self._blocks[number].restore()

    def _copy(self, number: int, slot: int) -> None:
        self._in_slot[slot] = number
        source = self._blocks[number].memory
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._used[slot])
            self._slots[slot][: len(source)].copy_(source, non_blocking=True)
            self._copied[slot].record(self._stream)


def resident_bytes(model: nn.Module) -> int:
    """Most bytes of the weights of `model` that a `BlockStream` has on the GPU at a time."""

    def size(module: nn.Module) -> int:
        return sum(weight.nbytes for *_, weight in weights_of(module.modules()))

    blocks = [size(module) for module in model.modules() if isinstance(module, BLOCKS)]
    return SLOTS * max(blocks) + size(model) - sum(blocks)


class BlockHook(ModelHook):  # type: ignore[misc]
    """Copies block `number` of `stream` to the GPU for each of its calls."""

    def __init__(self, stream: BlockStream, number: int) -> None:
        self._stream, self._number = stream, number

    def pre_forward(self, _: Any, *args: Any, **kwargs: Any) -> Any:
        self._stream.enter(self._number)
        return args, kwargs

    def post_forward(self, _: Any, output: Any) -> Any:
        self._stream.leave(self._number)
        return output


def weights_of(modules: Iterable[nn.Module]) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """Each weight of `modules` themselves, after the dictionary and the name that hold it."""
    for module in modules:
        for owner in (module._parameters, module._buffers):
            for name, weight in owner.items():
                if weight is not None:
                    yield owner, name, weight


def _pinned(size: int) -> Tensor:
    """Main memory that a GPU can read while it works; ordinary memory if none can be pinned."""
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)
    except RuntimeError as error:
        log.warning("Main memory cannot be pinned, which makes offload slower: %s", error)
        return torch.empty(size, dtype=torch.uint8)


def _view(memory: Tensor, place: Place) -> Tensor:
    """The part of `memory` that is `place`, in the shape and memory order of its weight."""
    weight = place.weight
    part = memory[place.start : place.start + weight.nbytes].view(weight.dtype)
    return part.as_strided(weight.shape, weight.stride(), part.storage_offset())
