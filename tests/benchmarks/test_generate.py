"""The benchmark: seconds are put where they were spent, and the last line is for programs."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from svd_core.benchmarks import interpolation, media_ops
from svd_core.benchmarks.__main__ import main as run_benchmark
from svd_core.benchmarks.generate import Stopwatch, main, measured_run, medians
from svd_core.benchmarks.server_process import running_server
from svd_core.errors import ToolFailed
from svd_core.events import OnProgress, Progress, Stage
from svd_core.media.video import write_mp4
from svd_core.params import VideoParams
from svd_core.types import GenerationResult
from tests.conftest import StillEngine
from tests.media.test_video import moving

ROOT = Path(__file__).parents[2]


def photo(path: Path) -> Path:
    Image.fromarray(np.full((90, 160, 3), 120, np.uint8)).save(path)
    return path


def watched(*events: tuple[float, Stage, int]) -> Stopwatch:
    return Stopwatch(events=[(at, Progress(stage=stage, step=n)) for at, stage, n in events])


def test_a_stage_lasts_until_the_next_one() -> None:
    watch = watched(
        (0.5, Stage.ENCODING, 0), (1.0, Stage.DENOISING, 0), (2.0, Stage.DENOISING, 1),
        (3.0, Stage.DENOISING, 2), (3.5, Stage.DECODING, 0), (7.0, Stage.WRITING, 0),
    )  # fmt: skip
    assert watch.stages(7.25) == {
        "encoding": 0.5, "denoising": 2.5, "decoding": 3.5, "writing": 0.25
    }  # fmt: skip
    assert watch.step_s() == 1.0


def test_steps_that_nobody_counted_take_no_time() -> None:
    assert watched((0.5, Stage.ENCODING, 0)).step_s() == 0.0
    assert watched((0.5, Stage.DENOISING, 1)).step_s() == 0.0


def test_medians_are_taken_figure_by_figure() -> None:
    runs = [
        {"seconds": s, "first_event_s": 0.1, "step_s": s / 4, "cpu_s": 2 * s,
         "stages": {"denoising": s / 2}}
        for s in (1.0, 9.0, 2.0)
    ]  # fmt: skip
    assert medians(runs) == {
        "seconds": 2.0, "first_event_s": 0.1, "step_s": 0.5, "cpu_s": 4.0,
        "stages": {"denoising": 1.0},
    }  # fmt: skip


class TimedEngine(StillEngine):
    """Takes 0.05 s for each of two steps."""

    def generate(
        self, image: Image.Image, params: VideoParams, on_progress: OnProgress
    ) -> GenerationResult:
        for step in range(3):
            time.sleep(0.05 if step else 0)
            on_progress(Progress(stage=Stage.DENOISING, step=step, total=2))
        return super().generate(image, params, lambda progress: None)


def test_a_run_is_timed_from_request_to_mp4(tmp_path: Path) -> None:
    run = measured_run(TimedEngine(), photo(tmp_path / "photo.png").read_bytes())
    assert 0.05 <= run["step_s"] < 0.5
    assert set(run["stages"]) == {"denoising", "writing"}
    assert 0 < run["first_event_s"] < run["seconds"]
    assert sum(run["stages"].values()) + run["first_event_s"] == pytest.approx(run["seconds"])
    assert run["cpu_s"] > 0


def test_there_must_be_something_to_measure(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--runs", "0", "--photo", "photo.jpg"])
    assert "at least one run" in capsys.readouterr().err


@pytest.mark.slow
def test_the_last_line_is_json(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_checkpoint, tmp_path / "quick")
    dials = {"sizes": [[128, 72]], "num_frames": 2, "num_inference_steps": 2}
    (model / "svd.json").write_text(json.dumps(dials))
    done = subprocess.run(
        [
            sys.executable, "-m", "svd_core.benchmarks", "--no-page", "--runs", "1",
            "--model", str(model), "--photo", str(photo(tmp_path / "photo.png")),
        ],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    found = json.loads(last)
    assert found["model"] == "quick"
    assert found["page_s"] is None
    assert 0.1 < found["peak_rss_gb"] < 10
    assert 0 < found["step_s"] < found["seconds"] < found["first_video_s"]
    assert {"encoding", "denoising", "decoding", "writing"} <= set(found["stages"])
    assert any(f"{found['seconds']:.3f} s" in line for line in table)


def test_what_a_page_asks_for_beside_videos_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("RUNS", 1), ("SIZE", (128, 72)), ("NUM_FRAMES", 3)):
        monkeypatch.setattr(media_ops, name, value)
    assert media_ops.main() == 0
    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert (found["frames"], found["size"]) == (3, [128, 72])
    assert {f"export {kind}" for kind in ("mp4", "gif", "webp", "png")} < set(found)
    assert len(table) == 1 + len(found) - 3
    assert all(found[line[:32].strip()] > 0 for line in table[1:])


def test_interpolation_is_compared_with_blending_clip_by_clip(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    clips = [write_mp4(moving(num_frames=n), tmp_path / f"{n}.mp4", 7, "") for n in (5, 7)]
    assert interpolation.main([str(path) for path in clips]) == 0
    head, *rows, average, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert {name: clip["frames"] for name, clip in found["clips"].items()} == {"5": 2, "7": 3}
    for row, clip in zip(rows, found["clips"].values(), strict=True):
        assert clip["gain"] == pytest.approx(clip["interpolation"] - clip["blending"])
        assert f"{clip['gain']:.1f} dB" in row
    assert f"{found['gain']:.1f} dB (target: at least 6 dB)" in average
    assert {"blending", "interpolated", "gain", "worse", "seconds"} < set(head.split())


def test_frames_as_they_were_are_as_good_as_can_be() -> None:
    frames = moving()
    assert interpolation.psnr(frames, frames) == pytest.approx(98, abs=0.5)
    assert interpolation.psnr(frames, 255 - frames) < 10


def test_a_server_that_ends_without_a_word_has_not_answered(tmp_path: Path) -> None:
    program = ("-c", "import time; time.sleep(0.2)")
    with (
        pytest.raises(ToolFailed, match="did not start"),
        running_server(*program, folder=tmp_path),
    ):
        pass


def test_what_cannot_be_measured_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--no-page", "--model", "no/such folder"]
    assert run_benchmark(command) == 2
    assert capsys.readouterr().err.count("\n") == 1
