"""Blocks of a UNet that come to a pretended GPU one by one, each before it is used."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.hooks import add_hook_to_module, remove_hook_from_module
from torch import Tensor, nn

from svd_core.engine.engine import SvdEngine
from svd_core.engine.optimizations import block_offload
from svd_core.engine.optimizations.block_offload import BlockHook, BlockStream, resident_bytes
from svd_core.engine.pipeline_loader import open_folder, place
from svd_core.errors import Cancelled
from svd_core.events import Progress
from tests.engine.test_optimizations import ON_CUDA
from tests.fakes.gpu_sizes import gpu_of, levels, make, pipeline_of
from tests.fakes.pretend_cuda import PretendCuda, pretend_cuda

SIZE = 64
BLOCK_BYTES = 4 * (SIZE * SIZE + SIZE)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SIZE, SIZE)
        self.register_buffer("scale", torch.rand(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.scale


class Net(nn.Module):
    """Its blocks are not used in the order of the list, and one of them is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(SIZE, SIZE)
        self.blocks = nn.ModuleList(Block() for _ in range(5))
        self.order = [3, 0, 4, 1, 1, 2]

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for number in self.order:
            x = torch.tanh(self.blocks[number](x))
        return x


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendCuda]:
    monkeypatch.setattr(block_offload, "BLOCKS", (Block,))
    with pretend_cuda() as found:
        yield found


def streamed(net: Net) -> BlockStream:
    stream = BlockStream(net, "cuda")
    for number, module in enumerate(stream.modules):
        add_hook_to_module(module, BlockHook(stream, number))
    return stream


def copies(gpu: PretendCuda, before: int) -> float:
    """Blocks that were brought since there were `before` bytes."""
    return (gpu.brought - before) / BLOCK_BYTES


@torch.no_grad()
def test_a_net_computes_the_same_and_each_block_comes_once_a_pass(gpu: PretendCuda) -> None:
    net = Net()
    x = torch.randn(3, SIZE)
    expected, weights = net(x), [each.data_ptr() for each in net.parameters()]
    stream = streamed(net)
    kept = [each.data_ptr() for each in net.parameters()]
    assert kept != weights  # in the memory of their blocks
    there = x.to("cuda")
    stream.start()
    for _ in range(3):
        before = gpu.brought
        assert torch.equal(net(there).cpu(), expected)
        assert copies(gpu, before) == pytest.approx(5, abs=0.1)  # of six uses
    stream.stop()
    assert [each.data_ptr() for each in net.parameters()] == kept
    remove_hook_from_module(net, recurse=True)
    for block in net.blocks:
        remove_hook_from_module(block, recurse=True)
    net.order = Net().order
    assert torch.equal(net(x), expected)


@torch.no_grad()
def test_a_copy_waits_for_the_last_block_but_one(gpu: PretendCuda) -> None:
    """So it goes on while the last one works, and the CPU waits for neither."""
    net = Net()
    stream = streamed(net)
    stream.start()
    done: list[str] = []

    def note(what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Any) -> Any:
            done.append(what)
            return call(*given)

        return noted

    for slot, used in enumerate(stream._used):
        used.record = note(f"{slot} used", used.record)
    stream._stream.wait_event = lambda used: done.append(f"{stream._used.index(used)} filled")
    net(torch.randn(1, SIZE).to("cuda"))
    assert done == [
        *("1 filled", "1 used", "0 filled", "0 used", "1 filled", "1 used", "0 filled", "0 used"),
        *("0 used", "1 filled", "1 used"),  # one block is used twice in a row
    ]
    assert gpu.waits == 0


@torch.no_grad()
def test_room_for_two_blocks_is_all_it_takes(gpu: PretendCuda) -> None:
    net = Net()
    stream = streamed(net)
    stream.start()
    for _ in range(3):
        net(torch.randn(1, SIZE).to("cuda"))
    room = sum(len(slot) for slot in stream._slots) + len(stream._rest.memory)
    assert resident_bytes(net) <= room < resident_bytes(net) + 3000  # alignment
    stream.stop()
    assert stream._slots == []


@torch.no_grad()
def test_a_pass_that_breaks_off_leaves_all_in_main_memory(gpu: PretendCuda) -> None:
    net = Net()
    x = torch.randn(1, SIZE)
    expected = net(x)
    stream = streamed(net)

    def fail(*_: Any) -> None:
        raise Cancelled

    hook = net.blocks[4].linear.register_forward_pre_hook(fail)
    stream.start()
    with pytest.raises(Cancelled):
        net(x.to("cuda"))
    stream.stop()
    assert not any(each.is_cuda for each in (*net.parameters(), *net.buffers()))
    hook.remove()
    stream.start()
    assert torch.equal(net(x.to("cuda")).cpu(), expected)


def test_memory_that_cannot_be_pinned_is_used_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = torch.empty

    def empty(*given: Any, pin_memory: bool = False, **more: Any) -> Tensor:
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory")
        return real(*given, **more)

    monkeypatch.setattr(block_offload, "BLOCKS", (Block,))
    monkeypatch.setattr(torch, "empty", empty)
    net = Net()
    values = [each.clone() for each in net.parameters()]
    with caplog.at_level(logging.WARNING):
        BlockStream(net, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), values, strict=True))
    assert "cannot be pinned" in caplog.text


def test_a_memory_order_is_kept() -> None:
    conv = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
    values = conv.weight.clone()
    with pretend_cuda():
        block = block_offload.Block([conv])
    assert torch.equal(conv.weight, values)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert len(block.memory) >= values.nbytes


def test_clips_of_an_engine_are_the_same_also_after_one_that_was_stopped(
    tiny_checkpoint: Path,
) -> None:
    def stop(event: Progress) -> None:
        if event.step == 1:
            raise Cancelled

    with gpu_of(80):
        stays = make(SvdEngine(str(tiny_checkpoint), "none"))
        engine = SvdEngine(str(tiny_checkpoint), "sequential")
        first = make(engine)
        with pytest.raises(Cancelled):
            make(engine, stop)
        again = make(engine)
        stream = pipeline_of(engine).unet_stream
        assert not stream.is_active
    assert levels(first, stays) <= 1
    assert levels(first, again) == 0


def test_another_plan_drops_the_blocks(tiny_checkpoint: Path) -> None:
    with gpu_of(80):
        pipeline = open_folder(tiny_checkpoint, True, lambda *_: None)
        place(pipeline, replace(ON_CUDA, offload="sequential"))
        assert pipeline.unet_stream is not None
        place(pipeline, replace(ON_CUDA, offload="model"))
        assert pipeline.unet_stream is None
