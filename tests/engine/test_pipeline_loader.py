"""From a folder to a pipeline: damaged files are named, published ones open without torchvision."""

import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from svd_core.checkpoints.memory_plan import MemoryPlan
from svd_core.engine.pipeline_loader import ALIGNMENT, find_device, model_sizes, open_folder, place
from svd_core.errors import ModelBroken
from tests.fakes.errors import has_code
from tests.fakes.tiny_checkpoint import write

ROOT = Path(__file__).parents[2]
UNET = "unet/diffusion_pytorch_model.safetensors"
WEIGHTS = [UNET, "vae/diffusion_pytorch_model.safetensors", "image_encoder/model.safetensors"]
ON_CPU = MemoryPlan(device="cpu", dtype="float32", decode_chunk_size=2)


def ignore(had: int, total: int) -> None:
    """Bytes are not looked at."""


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy to break; without the fp16 variants, which would stand in."""
    skip = shutil.ignore_patterns("*.fp16.*")
    return shutil.copytree(tiny_checkpoint, tmp_path / "broken", ignore=skip)


@pytest.mark.parametrize("half", [False, True])
def test_a_published_folder_opens_quietly(
    tiny_checkpoint: Path, half: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """The preprocessor config names a class that wants torchvision, which is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline = open_folder(tiny_checkpoint, half, ignore)
    dtype = torch.float16 if half else torch.float32
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.image_encoder.dtype} == {dtype}
    assert not pipeline.unet.training
    assert capfd.readouterr() == ("", "")


def test_a_process_that_loads_a_model_prints_nothing(tiny_checkpoint: Path) -> None:
    """Libraries print warnings when they are imported, which here the other tests have done."""
    code = "import svd_core, sys; svd_core.SvdEngine(sys.argv[1]).load(lambda _: None)"
    command = [sys.executable, "-c", code, str(tiny_checkpoint)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_half_precision_reads_the_half_precision_files(tiny_checkpoint: Path) -> None:
    seen: list[tuple[int, int]] = []
    open_folder(tiny_checkpoint, True, lambda had, total: seen.append((had, total)))
    total = sum(path.stat().st_size for path in tiny_checkpoint.rglob("*.fp16.safetensors"))
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)


def test_weights_are_those_of_the_file(tiny_checkpoint: Path) -> None:
    pipeline = open_folder(tiny_checkpoint, False, ignore)
    for part, file in zip(("unet", "vae", "image_encoder"), WEIGHTS, strict=True):
        found = getattr(pipeline, part).state_dict()
        for name, value in load_file(tiny_checkpoint / file).items():
            assert torch.equal(found[name], value), name


def test_parts_are_counted(tiny_checkpoint: Path) -> None:
    found = model_sizes(open_folder(tiny_checkpoint, False, ignore))
    counts = [sum(v.numel() for v in load_file(tiny_checkpoint / f).values()) for f in WEIGHTS]
    assert [found.unet, found.vae, found.image_encoder] == counts
    assert (found.unet_channels, found.vae_channels) == (32, 32)


@pytest.mark.parametrize(
    "gone",
    [
        *WEIGHTS,
        "model_index.json",
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "feature_extractor/preprocessor_config.json",
    ],
)
def test_a_missing_file_is_named(folder: Path, gone: str) -> None:
    (folder / gone).unlink()
    with pytest.raises(ModelBroken) as caught:
        open_folder(folder, False, ignore)
    assert gone in caught.value.message
    assert str(folder) in caught.value.message


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"oops" * 99, lambda data: b""]
)
def test_damaged_weights_are_named(
    folder: Path, weights: str, damage: Callable[[bytes], bytes]
) -> None:
    (folder / weights).write_bytes(damage((folder / weights).read_bytes()))
    with pytest.raises(ModelBroken, check=has_code("model_file_damaged")) as caught:
        open_folder(folder, False, ignore)
    assert weights in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("weights", WEIGHTS)
def test_weights_with_a_hole_are_not_filled_with_random_numbers(folder: Path, weights: str) -> None:
    values = load_file(folder / weights)
    gone = sorted(name for name in values if name.endswith("weight"))[0]
    del values[gone]
    save_file(values, folder / weights, {"format": "pt"})
    with pytest.raises(ModelBroken) as caught:
        open_folder(folder, False, ignore)
    assert gone in caught.value.message


@pytest.mark.parametrize("weights", WEIGHTS)
def test_weights_of_another_shape_are_refused(folder: Path, weights: str) -> None:
    values = load_file(folder / weights)
    name = max(values, key=lambda key: values[key].numel())
    values[name] = values[name][:-1].contiguous()
    save_file(values, folder / weights, {"format": "pt"})
    with pytest.raises(ModelBroken, match=weights.split("/")[0]):
        open_folder(folder, False, ignore)


@pytest.mark.parametrize("config", ["unet/config.json", "scheduler/scheduler_config.json"])
def test_a_damaged_config_is_named(folder: Path, config: str) -> None:
    (folder / config).write_text("{")
    with pytest.raises(ModelBroken, match=config.split("/")[0]):
        open_folder(folder, False, ignore)


def test_a_config_of_another_model_is_refused(folder: Path) -> None:
    write(folder / "image_encoder" / "config.json", {"hidden_size": 10, "num_attention_heads": 3})
    with pytest.raises(ModelBroken, match="image_encoder"):
        open_folder(folder, False, ignore)


def test_split_guidance_changes_nothing_but_memory(tiny_checkpoint: Path) -> None:
    """Both halves of a guided step in one call, or one after the other."""
    pipeline = open_folder(tiny_checkpoint, False, ignore)
    generator = torch.Generator().manual_seed(1)
    asked = {
        "sample": torch.randn(2, 3, 8, 4, 8, generator=generator),
        "timestep": torch.tensor(0.5),
        "encoder_hidden_states": torch.randn(2, 1, 16, generator=generator),
        "added_time_ids": torch.tensor([[6.0, 127.0, 0.02]] * 2),
        "return_dict": False,
    }
    batches: list[int] = []
    pipeline.unet.conv_in.register_forward_hook(lambda m, found, out: batches.append(len(out)))
    with torch.no_grad():
        place(pipeline, ON_CPU)
        whole = pipeline.unet(**asked)[0]
        place(pipeline, MemoryPlan(**{**vars(ON_CPU), "split_guidance": True}))
        split = pipeline.unet(**asked)[0]
    assert batches == [6, 3, 3]
    np.testing.assert_allclose(split, whole, atol=1e-5)
    assert not torch.equal(whole[0], whole[1])


def test_the_device_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    assert find_device().name == "CPU, 3 cores"
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0}, raising=False)
    assert find_device().name == "CPU, 1 core"


@pytest.mark.parametrize("there", [False, True])
def test_a_cpu_says_whether_it_multiplies_in_bfloat16(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: there)
    assert find_device().bfloat16 == there


def test_weights_lie_as_torch_lays_them_whatever_their_file(tiny_checkpoint: Path) -> None:
    pipeline = open_folder(tiny_checkpoint, False, ignore)
    before = {name: weight.clone() for name, weight in pipeline.unet.state_dict().items()}
    place(pipeline, ON_CPU)
    parts = (pipeline.unet, pipeline.vae, pipeline.image_encoder)
    odd = [w for part in parts for w in part.parameters() if w.data_ptr() % ALIGNMENT]
    assert not odd
    assert all(torch.equal(w, before[name]) for name, w in pipeline.unet.state_dict().items())


def test_bfloat16_is_for_what_takes_long(tiny_checkpoint: Path) -> None:
    """The photo is encoded in float32: its latents go into every frame."""
    pipeline = open_folder(tiny_checkpoint, False, ignore)
    for _ in range(2):  # placing it again, as for a smaller plan, changes nothing
        place(pipeline, MemoryPlan(device="cpu", dtype="bfloat16", decode_chunk_size=2))
    slow, quick = (pipeline.unet, pipeline.vae.decoder), (pipeline.vae.encoder,)
    assert {p.dtype for part in slow for p in part.parameters()} == {torch.bfloat16}
    assert {p.dtype for part in quick for p in part.parameters()} == {torch.float32}
    assert pipeline.image_encoder.dtype == torch.float32
    kernels = [p for p in pipeline.vae.decoder.parameters() if p.dim() == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)


def test_what_encodes_stays_in_single_precision_and_gives_stocks_latents(
    tiny_checkpoint: Path,
) -> None:
    """Stock raises the whole VAE for each clip and lowers it again."""
    photo = Image.effect_mandelbrot((64, 32), (-2, -1, 1, 1), 50).convert("RGB")
    stock, ours = (open_folder(tiny_checkpoint, True, ignore) for _ in range(2))
    place(ours, MemoryPlan(device="cpu", dtype="float16", decode_chunk_size=2))
    assert {p.dtype for p in ours.vae.encoder.parameters()} == {torch.float32}
    assert {p.dtype for p in ours.vae.decoder.parameters()} == {torch.float16}
    seen: list[torch.Tensor] = []
    for pipeline in (stock, ours):
        pipeline.unet.register_forward_pre_hook(lambda _, given: seen.append(given[0][:, :, 4:]))
        noise = torch.Generator().manual_seed(1)
        options = {"num_inference_steps": 1, "generator": noise, "output_type": "latent"}
        pipeline(photo, width=64, height=32, num_frames=2, **options)
        assert {p.dtype for p in pipeline.vae.decoder.parameters()} == {torch.float16}
    assert seen[1].any()
    assert torch.equal(seen[0], seen[1])


def test_zero_gpu_is_known_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    found = find_device()
    assert (found.kind, found.zero_gpu) == ("cuda", True)
