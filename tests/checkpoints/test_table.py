"""The table of checkpoints, and what a name may mean."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from svd_core.checkpoints.memory_plan import MemoryPlan, ModelSizes, estimate_memory
from svd_core.checkpoints.table import CHECKPOINTS, find_checkpoint, with_folder_config
from svd_core.errors import InvalidSettings, ModelBroken
from tests.fakes.errors import has_code
from tests.fakes.tiny_checkpoint import NUM_FRAMES, SIZES, write

SVD_XT = "stabilityai/stable-video-diffusion-img2vid-xt"


def test_auto_takes_svd_xt_on_a_gpu_and_svd_nano_elsewhere() -> None:
    assert find_checkpoint("auto", cuda=True).name == "svd-xt"
    assert find_checkpoint("auto", cuda=False).name == "svd-nano"


@pytest.mark.parametrize(
    ("name", "source", "num_frames", "gated"),
    [
        ("svd-xt", SVD_XT, 25, False),
        ("svd-xt-1.1", f"{SVD_XT}-1-1", 25, True),
        ("svd", "stabilityai/stable-video-diffusion-img2vid", 14, False),
    ],
)
def test_published_checkpoints(name: str, source: str, num_frames: int, gated: bool) -> None:
    found = find_checkpoint(name, cuda=False)
    assert (found.source, found.num_frames, found.gated) == (source, num_frames, gated)
    assert found.sizes[0] == (1024, 576)
    assert found.folder is None
    assert find_checkpoint(source, cuda=False) == found


def test_sizes_can_be_encoded_and_have_the_same_number_of_pixels() -> None:
    for checkpoint in CHECKPOINTS.values():
        assert {width * height for width, height in checkpoint.sizes} == {
            checkpoint.sizes[0][0] * checkpoint.sizes[0][1]
        }
        assert all(side % 8 == 0 for size in checkpoint.sizes for side in size)


def test_any_hub_id_is_a_model() -> None:
    found = find_checkpoint("someone/my-svd", cuda=True)
    assert (found.name, found.source, found.folder) == ("my-svd", "someone/my-svd", None)
    assert found.licence_url == "https://huggingface.co/someone/my-svd"


def test_a_folder_is_a_model_with_the_dials_of_its_files(tiny_checkpoint: Path) -> None:
    """Defect 14: a model is never asked for another one's number of frames."""
    found = find_checkpoint(str(tiny_checkpoint), cuda=False)
    assert found.folder == tiny_checkpoint
    assert found.num_frames == NUM_FRAMES
    assert found.sizes == SIZES
    assert found.num_inference_steps == 2
    assert found.max_guidance_scale == 3.0


def test_a_downloaded_model_has_the_dials_of_its_files(tiny_checkpoint: Path) -> None:
    """Defect 14, for a hub id that the table does not know."""
    unknown = find_checkpoint("someone/tiny", cuda=True)
    assert with_folder_config(unknown, tiny_checkpoint).num_frames == NUM_FRAMES


@pytest.mark.parametrize("name", ["svd-xl", "", "/no/such/folder", "a/b/c", "Svd-XT", "owner/"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        find_checkpoint(name, cuda=True)
    assert repr(name) in caught.value.message
    assert all(known in caught.value.message for known in ("auto", *CHECKPOINTS))


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelBroken, match=r"model_index\.json"):
        find_checkpoint(str(tmp_path), cuda=False)


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    with pytest.raises(
        ModelBroken, check=has_code("model_wrong_pipeline", found="StableDiffusionPipeline")
    ):
        find_checkpoint(str(tmp_path), cuda=False)


@pytest.mark.parametrize(
    ("content", "culprit"),
    [
        ('{"num_frames": 0}', "num_frames must be a whole number from 2 to 50"),
        ('{"num_frames": "many"}', "num_frames"),
        ('{"num_frames": null}', "num_frames"),
        ('{"sizes": [[512, 290]]}', "multiples of 8"),
        ('{"sizes": []}', "sizes"),
        ('{"sizes": 512}', "svd.json"),
        ('{"half_precision_on_cpu": 1}', "half_precision_on_cpu must be true or false"),
        ('{"size": [[512, 288]]}', "'size' is not known"),
        ('{"seed": 1}', "'seed' is not known"),
        ("[]", "one JSON object"),
        ("{", "cannot be read"),
    ],
)
def test_wrong_dials_are_named(
    content: str, culprit: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    (folder / "svd.json").write_text(content)
    with pytest.raises(ModelBroken, match=culprit) as caught:
        find_checkpoint(str(folder), cuda=False)
    assert "svd.json" in caught.value.message


def test_a_folder_without_dials_has_those_of_svd_xt(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    (folder / "svd.json").unlink()
    config = json.loads((folder / "unet" / "config.json").read_text())
    write(folder / "unet" / "config.json", config | {"num_frames": 7})
    found = find_checkpoint(str(folder), cuda=False)
    assert (found.num_frames, found.num_inference_steps, found.sizes[0]) == (7, 25, (1024, 576))


@pytest.mark.parametrize("name", ["svd-xt", "svd-xt-1.1", "svd"])
def test_the_memory_need_told_is_the_one_planned_with(name: str) -> None:
    checkpoint = CHECKPOINTS[name]
    needs = estimate_memory(checkpoint, ModelSizes(), 2)
    most = MemoryPlan(device="cuda", dtype="float16", decode_chunk_size=1)
    least = replace(most, offload="model", split_guidance=True)
    told = tuple(round(needs.peak(plan) / 1e9, 1) for plan in (least, most))
    assert checkpoint.memory_gb == told


def test_the_table_needs_no_torch() -> None:
    modules = "svd_core.checkpoints.table, svd_core.checkpoints.memory_plan, svd_core.engine.engine"
    code = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "diffusers", "huggingface_hub"} & set(done.stdout.split()) == set()
