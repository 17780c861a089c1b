"""Channels innermost and folded upsampling compute the same; the probe chooses a layout."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name
from torch.nn.attention import SDPBackend

from svd_core.engine.engine import SvdEngine
from svd_core.engine.optimizations import attention_probe, group_norm, kernels, probe
from svd_core.engine.optimizations.group_norm import NORMS
from svd_core.engine.optimizations.kernels import (
    BENCHMARK,
    FOLDED,
    HEURISTIC,
    LAYOUTS,
    Kernels,
    Layout,
    Size,
    benchmark_choice,
    choose_kernels,
    layout_choice,
    part_case,
)
from svd_core.engine.optimizations.probe import MAX_ERROR_RATIO, ROUNDING, WIDER, Probe
from svd_core.engine.optimizations.registry import OPTIMIZATIONS, apply_optimizations
from tests.fakes.gpu_sizes import gpu_of, levels, make, pipeline_of
from tests.fakes.pretend_cuda import pretend_cuda
from tests.fakes.random_checkpoint import decode, denoise, random_models

FLASH, EFFICIENT = SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION
SMALL = Size(64, 32, 16, frames=3, height=4, width=6)
SMALL_DECODER = replace(SMALL, temb_channels=None)

ON_GPU = [name for name, each in OPTIMIZATIONS.items() if each.on_cuda]


def kept_norm(norm: nn.GroupNorm, x: Tensor, silu: bool = True) -> Tensor:
    """Like Triton's kernels it keeps channels innermost, where torch's on a CPU is less exact."""
    order = torch.contiguous_format
    if x.is_contiguous(memory_format=torch.channels_last):
        order = torch.channels_last
    normed = F.group_norm(x.contiguous(), norm.num_groups, norm.weight, norm.bias, norm.eps)
    return (F.silu(normed) if silu else normed).contiguous(memory_format=order)


def arranged(models: dict[str, nn.Module], layout: Layout) -> dict[str, nn.Module]:
    """`models` with the optimizations for a GPU, in `layout`."""
    names = [*ON_GPU, FOLDED] if layout.folded else ON_GPU
    apply_optimizations(SimpleNamespace(**models), names, kept_norm)
    for model in models.values():
        layout.arrange(model)
    return models


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("dtype", WIDER)
def test_models_in_a_layout_are_as_near_to_the_truth_as_stock(
    name: str, dtype: torch.dtype
) -> None:
    models = random_models()
    works: dict[str, Callable[[], Tensor]] = {
        "unet": lambda: denoise(models["unet"], 2),
        "vae": lambda: decode(models["vae"]),
    }
    for model in models.values():
        model.to(WIDER[dtype])
    truth = {part: work() for part, work in works.items()}
    for model in models.values():
        model.to(dtype)
    stock = {part: work() for part, work in works.items()}
    arranged(models, LAYOUTS[name])
    for part, work in works.items():
        found = work()
        error, stock_error = (
            float((made - truth[part]).square().mean().sqrt()) for made in (found, stock[part])
        )
        largest = float((found - truth[part]).abs().max() / truth[part].abs().max())
        assert error <= MAX_ERROR_RATIO * stock_error or largest <= ROUNDING
    apply_optimizations(SimpleNamespace(**models), [])
    for model in models.values():
        Layout().arrange(model)
    assert all(torch.equal(work(), stock[part]) for part, work in works.items())


def test_channels_stay_innermost_through_all_blocks() -> None:
    """So no convolution has to turn its input."""
    models = arranged(random_models(), Layout(channels_last=True))
    turned: list[str] = []

    def look(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            if not args[0].is_contiguous(memory_format=torch.channels_last):
                turned.append(name)

        return hook

    for part, model in models.items():
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Conv2d) and "conv_in" not in name and "encoder" not in name:
                layer.register_forward_pre_hook(look(f"{part}.{name}"))
    denoise(models["unet"], 2)
    decode(models["vae"])
    assert turned == []


def test_kernels_over_frames_are_laid_out_too() -> None:
    conv = nn.Conv3d(8, 8, (3, 1, 1))
    values = conv.weight.clone()
    Layout(channels_last=True).arrange(conv)
    assert torch.equal(conv.weight, values)
    assert conv.weight[..., 0].is_contiguous(memory_format=torch.channels_last)
    Layout().arrange(conv)
    assert conv.weight.is_contiguous()


# The probe


@pytest.mark.parametrize("size", [SMALL, SMALL_DECODER])
@pytest.mark.parametrize("dtype", WIDER)
def test_the_probe_judges_the_layouts_right(size: Size, dtype: torch.dtype) -> None:
    now = iter(range(10**6))
    choice = layout_choice("UNet", size, kept_norm)
    found = Probe(choice, "cpu", dtype, lambda: next(now) * 1e-6).run()
    unfolded = {name for name, layout in LAYOUTS.items() if not layout.folded}
    assert set(found or ()) >= unfolded  # sums of weights are rounded once more in half precision


@pytest.mark.parametrize("fault", ["raises", "wrong", "slower", "faster"])
def test_a_layout_is_used_where_it_is_right_and_faster(
    monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    seconds = dict.fromkeys(LAYOUTS, 0.02) | {"NHWC": 0.03 if fault == "slower" else 0.01}
    clock = [0.0]
    real = part_case

    def case(*given: object) -> probe.Case:
        made = real(*given)  # type: ignore[arg-type]

        def compute(name: str) -> Tensor:
            clock[0] += seconds.get(name, 0.0)
            if name == "NHWC" and fault == "raises":
                raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED")
            out = made.compute(name)
            return out.flip(-1) if name == "NHWC" and fault == "wrong" else out

        return replace(made, compute=compute)

    monkeypatch.setattr(kernels, "part_case", case)
    choice = layout_choice("UNet", SMALL, kept_norm)
    found = Probe(choice, "cpu", torch.float32, lambda: clock[0]).run()
    assert found is not None
    assert found[0] == ("NHWC" if fault == "faster" else "NCHW")
    assert ("NHWC" in found) == (fault in ("slower", "faster"))


def benchmark_probe(
    monkeypatch: pytest.MonkeyPatch, seconds: float, changes: float = 0.0, fails: bool = False
) -> tuple[str, ...] | None:
    clock = [0.0]
    real = kernels.Part.forward

    def forward(part: kernels.Part, x: Tensor, temb: Tensor | None) -> Tensor:
        benchmark = torch.backends.cudnn.benchmark
        if benchmark and fails:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")
        clock[0] += seconds if benchmark else 0.02
        out = real(part, x, temb)
        return out * (1 + changes) if benchmark else out

    monkeypatch.setattr(kernels.Part, "forward", forward)
    choice = benchmark_choice(SMALL, Layout(), kept_norm)
    return Probe(choice, "cpu", torch.float16, lambda: clock[0]).run()


def test_cudnns_benchmark_is_used_where_it_is_faster_and_changes_no_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert benchmark_probe(monkeypatch, 0.01) == (BENCHMARK, HEURISTIC)
    assert benchmark_probe(monkeypatch, 0.03) == (HEURISTIC, BENCHMARK)
    assert benchmark_probe(monkeypatch, 0.01, changes=2**-10) == (HEURISTIC,)
    assert benchmark_probe(monkeypatch, 0.01, fails=True) == (HEURISTIC,)


def test_every_choice_is_made_with_the_ones_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []
    answers = {
        "GroupNorm": ("triton", "torch"),
        "UNet with triton norms": ("NHWC", "NCHW"),
        "Decoder with triton norms": ("NHWC, folded", "NCHW"),
        f"cuDNN's algorithms for {LAYOUTS['NHWC']}": (BENCHMARK, HEURISTIC),
        "Attention": ("CUDNN_ATTENTION",),
    }

    def choose(choice: probe.Choice, device: str, dtype: str, folder: Path | None) -> object:
        asked.append(choice.name)
        assert (device, dtype, folder) == ("cuda:0", "float16", tmp_path)
        return answers[choice.name]

    monkeypatch.setattr(kernels, "choose", choose)
    monkeypatch.setattr("svd_core.engine.optimizations.attention_probe.choose", choose)
    found = choose_kernels("cuda:0", "float16", tmp_path)
    assert set(asked) == set(answers)
    assert (found.norm, found.benchmark) == ("triton", True)
    assert found.unet == LAYOUTS["NHWC"]
    assert found.decoder == LAYOUTS["NHWC, folded"]
    monkeypatch.setattr(kernels, "choose", lambda *_: None)  # memory ran out
    assert replace(choose_kernels("cuda:0", "float16", tmp_path), attention=found.attention) == (
        Kernels(attention=found.attention)
    )


def test_all_choices_are_made_on_a_pretended_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing mixes with tensors of the CPU, and what is missing here is passed over."""
    now = iter(range(10**6))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "pretended")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch, "Generator", lambda _, real=torch.Generator: real("cpu"))
    monkeypatch.setattr(probe, "synchronized", lambda _: next(now) * 1e-4)
    monkeypatch.setattr(kernels, "UNET", SMALL)
    monkeypatch.setattr(kernels, "DECODER", SMALL_DECODER)
    monkeypatch.setattr(group_norm, "SHAPES", ((32, 2, 3),))
    monkeypatch.setattr(attention_probe, "SHAPES", (attention_probe.Shape(2, 8, 2, 8),))
    with pretend_cuda() as gpu:
        found = choose_kernels("cuda:0", "float16", tmp_path)
        brought = gpu.brought
        assert choose_kernels("cuda:0", "float16", tmp_path) == found  # from the cache
        assert gpu.brought == brought > 0
    assert found.norm != "triton"
    assert found.attention.backends[0] in (FLASH, EFFICIENT)
    assert SDPBackend.CUDNN_ATTENTION not in found.attention.backends
    assert len(json.loads((tmp_path / probe.NAME).read_text())) == 5


@pytest.mark.parametrize("size", [80, pytest.param(12, marks=pytest.mark.slow)])
def test_the_engine_uses_what_was_chosen(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """On a pretended GPU, with weights that stay there and that wait."""
    monkeypatch.setattr(kernels, "NORMS", {**NORMS, "kept": kept_norm})
    nhwc = Layout(channels_last=True, folded=True)
    chosen = Kernels(norm="kept", unet=nhwc, decoder=nhwc, benchmark=True)
    benchmark: list[bool] = []
    with gpu_of(size):
        usual = make(SvdEngine(str(tiny_checkpoint)))
        engine = SvdEngine(str(tiny_checkpoint))
        monkeypatch.setattr("svd_core.engine.loaded_model.choose_kernels", lambda *_: chosen)
        engine.load(lambda _: None)
        pipeline = pipeline_of(engine)
        for model in (pipeline.unet.mid_block, pipeline.vae.decoder.conv_out):
            model.register_forward_pre_hook(
                lambda *_: benchmark.append(torch.backends.cudnn.benchmark)
            )
        first, again = make(engine), make(engine)
        weight = pipeline.unet.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert benchmark
    assert all(benchmark)
    assert not torch.backends.cudnn.benchmark
    assert levels(first, usual) <= 2
    assert levels(first, again) == 0
