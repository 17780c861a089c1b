"""The command line with an engine that repeats the photo: what is asked, kept, printed, refused."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from svd_core.checkpoints.catalog import ModelCatalog
from svd_core.checkpoints.table import CHECKPOINTS, Checkpoint
from svd_core.cli.args import make_parser, option
from svd_core.cli.main import main
from svd_core.cli.output import progress_bar, progress_text
from svd_core.engine.engine import Engine, EngineStatus, ModelHandle
from svd_core.errors import Cancelled, GenerationFailed, ModelGated, StorageFull
from svd_core.events import OnProgress, Progress, Stage
from svd_core.media.recipe import Recipe
from svd_core.media.video import read_frames, write_mp4
from svd_core.params import PARAMETERS, VideoParams
from svd_core.settings import Settings
from svd_core.types import GenerationResult

ROOT = Path(__file__).parents[2]


@dataclass
class Recorder:
    """An engine that writes down what it was asked, and fails with `error` if there is one."""

    error: BaseException | None = None
    notes: tuple[str, ...] = ()
    checkpoint: Checkpoint = CHECKPOINTS["svd-nano"]
    asked: list[VideoParams] = field(default_factory=list)
    settings: list[Settings] = field(default_factory=list)

    def open(self, settings: Settings) -> Engine:
        self.settings.append(settings)
        return self

    def load(self, on_progress: OnProgress, model: str | None = None) -> ModelHandle:
        assert model is None, "what --model names is all that the engine has"
        on_progress(Progress(stage=Stage.LOADING))
        return ModelHandle(self.checkpoint, self.generate)

    def generate(
        self, image: Image.Image, params: VideoParams, on_progress: OnProgress
    ) -> GenerationResult:
        self.asked.append(params)
        on_progress(Progress(stage=Stage.DENOISING, step=1, total=1))
        if self.error is not None:
            raise self.error
        params = replace(params, num_frames=params.num_frames or 3)
        frames = np.stack([np.asarray(image, dtype=np.uint8)] * params.num_frames)
        return GenerationResult(frames, params, self.notes)

    @property
    def status(self) -> EngineStatus:
        offer = ModelCatalog((self.checkpoint,))
        return EngineStatus(checkpoint=self.checkpoint, device="none", state="ready", catalog=offer)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def run(recorder: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """`run("photo.jpg", "-o", "out.mp4")` in an empty folder that holds photo.jpg."""
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "photo.jpg")
    return lambda *argv: main([str(a) for a in argv], recorder.open)


def photo(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((90, 160, 3), shade, np.uint8)
    pixels[:, :80] = (200, 60, 20)
    Image.fromarray(pixels).save(path)
    return path


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def one_sentence(text: str) -> str:
    """`text` if it is what a user should see of an error: one line that ends like a sentence."""
    assert text.count("\n") == 1, text
    assert text.endswith(".\n"), text
    assert "Traceback" not in text
    return text


def test_a_photo_becomes_a_video(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("photo.jpg", "-o", "out.mp4", "--seed", "5", "--num-frames", "4") == 0
    frames = read_frames(tmp_path / "out.mp4")
    assert frames.shape == (4, 288, 512, 3)
    assert np.abs(frames[0, 144, 10].astype(int) - (200, 60, 20)).max() < 12
    out, err = capsys.readouterr()
    assert out.startswith("out.mp4: 4 frames of 512x288 at 7 fps, seed 5, svd-nano, ")
    assert err == ""
    assert left_behind(tmp_path) == ["out.mp4", "photo.jpg"]


LIMITS = {name: each for name, each in PARAMETERS.items() if each.span}


@pytest.mark.parametrize("name", LIMITS)
def test_every_setting_is_an_option(run: Callable[..., int], recorder: Recorder, name: str) -> None:
    value = LIMITS[name].minimum + 1 if LIMITS[name].integer else 0.75
    assert run("photo.jpg", "-o", "out.mp4", option(name), f"{value:g}") == 0
    assert getattr(recorder.asked[0], name) == value
    others = {n for n in LIMITS if n not in (name, "seed")}
    assert {n: getattr(recorder.asked[0], n) for n in others} == {
        n: VideoParams.default(n) for n in others
    }


def test_fit_is_an_option(run: Callable[..., int], recorder: Recorder) -> None:
    assert run("photo.jpg", "-o", "out.mp4", "--fit", "pad") == 0
    assert recorder.asked[0].fit == "pad"


def test_the_model_is_chosen_by_option_over_the_environment(
    run: Callable[..., int], recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SVD_MODEL", "svd")
    assert run("photo.jpg") == 0
    assert run("photo.jpg", "--model", "svd-xt") == 0
    assert [settings.model for settings in recorder.settings] == ["svd", "svd-xt"]


def test_photos_with_one_name_get_videos_with_several(
    run: Callable[..., int], tmp_path: Path
) -> None:
    """Defect 13: a folder of photos ends after the first. Defect 7: one file name for two jobs."""
    photo(tmp_path / "a" / "photo.png", shade=0)
    photo(tmp_path / "b" / "photo.png", shade=250)
    assert run("a/photo.png", "b/photo.png", "-o", "videos", "--num-frames", "2") == 0
    assert run("a/photo.png", "-o", "videos/", "--num-frames", "2") == 0
    assert left_behind(tmp_path / "videos") == ["photo-2.mp4", "photo-3.mp4", "photo.mp4"]
    assert read_frames(tmp_path / "videos" / "photo.mp4")[0, 10, -10].max() < 30
    assert read_frames(tmp_path / "videos" / "photo-2.mp4")[0, 10, -10].min() > 220


def test_a_name_that_was_asked_for_is_replaced(run: Callable[..., int], tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_bytes(b"old")
    assert run("photo.jpg", "-o", "out.mp4") == 0
    assert len(read_frames(tmp_path / "out.mp4")) == 3


def test_json_is_one_line_per_video(
    run: Callable[..., int], recorder: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder.notes = ("The motion was made for 30 fps.",)
    photo(tmp_path / "two.png")
    assert run("photo.jpg", "two.png", "-o", "videos/", "--json", "--fps", "9") == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["photo"] for line in lines] == ["photo.jpg", "two.png"]
    for line in lines:
        assert len(read_frames(Path(line["path"]))) == line["num_frames"]
        assert (line["width"], line["height"], line["fps"]) == (512, 288, 9)
        assert line["seed"] == Recipe.read(Path(line["path"])).params.seed
        assert line["notes"] == ["The motion was made for 30 fps."]
    assert err == ""


def test_notes_are_told(
    run: Callable[..., int], recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder.notes = ("The motion was made for 30 fps.",)
    assert run("photo.jpg") == 0
    assert capsys.readouterr().err == "The motion was made for 30 fps.\n"


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "no photo"),
        (["photo.jpg", "--nonsense"], "--nonsense"),
        (["photo.jpg", "--see", "5"], "--see"),
        (["photo.jpg", "--motion-bucket-id", "256"], "motion_bucket_id"),
        (["photo.jpg", "--motion-bucket-id", "12.5"], "motion_bucket_id"),
        (["photo.jpg", "--noise-aug-strength", "nan"], "noise_aug_strength"),
        (["photo.jpg", "--seed", "-1"], "seed"),
        (["photo.jpg", "--fit", "stretch"], "fit"),
        (["photo.jpg", "-o", "out.gif"], "out.mp4"),
        (["photo.jpg", "photo.jpg", "-o", "out.mp4"], "-o out/"),
        (["photo.jpg", "-o", "photo.jpg/out.mp4"], "-o"),
        (["missing.jpg"], "missing.jpg"),
        (["photo.jpg", "--from-recipe", "missing.mp4"], "missing.mp4"),
        (["--recipe", "photo.jpg"], "photo.jpg"),
    ],
)
def test_a_wrong_command_is_one_sentence(
    run: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    named: str,
) -> None:
    assert run(*argv) == 2
    out, err = capsys.readouterr()
    assert named in one_sentence(err)
    assert out == ""
    assert left_behind(tmp_path) == ["photo.jpg"]


def test_a_wrong_setting_of_the_environment_is_one_sentence(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SVD_KEEP_HOURS", "soon")
    assert run("photo.jpg") == 2
    assert "SVD_KEEP_HOURS" in one_sentence(capsys.readouterr().err)


def test_a_bad_photo_does_not_stop_the_others(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.png").write_text("not a picture")
    assert run("notes.png", "photo.jpg", "-o", "videos/") == 2
    assert left_behind(tmp_path / "videos") == ["photo.mp4"]
    assert one_sentence(capsys.readouterr().err).startswith("notes.png: ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GenerationFailed("model_gave_nan"), 1),
        (ModelGated("model_licence_required", model="a/b"), 1),
        (StorageFull("upload_disk_full"), 1),
        (Cancelled(), 130),
        (KeyboardInterrupt(), 130),
    ],
)
def test_a_failure_is_one_sentence_and_leaves_nothing(
    run: Callable[..., int],
    recorder: Recorder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
) -> None:
    recorder.error = error
    assert run("photo.jpg", "photo.jpg", "-o", ".") == code
    assert len(recorder.asked) == 1
    assert one_sentence(capsys.readouterr().err).strip() == (str(error) or "Stopped.")
    assert left_behind(tmp_path) == ["photo.jpg"]


def test_a_recipe_is_printed(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    run("photo.jpg", "-o", "out.mp4", "--motion-bucket-id", "60", "--seed", "9")
    capsys.readouterr()
    assert run("--recipe", "out.mp4") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["model"] == "svd-nano"
    assert (printed["params"]["motion_bucket_id"], printed["params"]["seed"]) == (60, 9)


def test_a_recipe_makes_the_video_again(
    run: Callable[..., int],
    recorder: Recorder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {"--motion-bucket-id": 60, "--fps": 11, "--playback-fps": 12, "--focus-x": 0.25}
    argv = [str(part) for pair in settings.items() for part in pair]
    assert run("photo.jpg", "-o", "out.mp4", "--fit", "pad", *argv) == 0
    capsys.readouterr()
    assert run("--from-recipe", "out.mp4", "photo.jpg", "-o", "again.mp4") == 0
    assert capsys.readouterr().err == ""
    assert recorder.settings[1].model == "svd-nano"
    first, again = (Recipe.read(tmp_path / name) for name in ("out.mp4", "again.mp4"))
    assert again.params == first.params
    assert np.array_equal(read_frames(tmp_path / "out.mp4"), read_frames(tmp_path / "again.mp4"))


def test_of_a_joined_video_the_first_clip_is_made_again(
    run: Callable[..., int],
    recorder: Recorder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("photo.jpg", "-o", "out.mp4", "--seed", "9", "--orientation", "portrait")
    first = Recipe.read(tmp_path / "out.mp4")
    later = replace(first, params=replace(first.params, seed=5), continues=first)
    frames = read_frames(tmp_path / "out.mp4")
    write_mp4(frames, tmp_path / "joined.mp4", 7, later.to_json())
    capsys.readouterr()
    assert run("--from-recipe", "joined.mp4", "photo.jpg", "-o", "again.mp4") == 0
    assert "has 2 joined clips. Only the first" in capsys.readouterr().err
    assert recorder.asked[1] == first.params
    assert recorder.asked[1].orientation == "portrait"


def test_another_speed_has_steps_and_guidance_of_its_own(
    run: Callable[..., int], recorder: Recorder
) -> None:
    run("photo.jpg", "-o", "out.mp4", "--num-inference-steps", "9", "--max-guidance-scale", "2")
    for number, speed in enumerate(("fast", "exact")):
        run("--from-recipe", "out.mp4", "photo.jpg", "-o", f"{number}.mp4", "--speed", speed)
    _, fast, exact = recorder.asked
    assert (fast.speed, fast.num_inference_steps, fast.max_guidance_scale) == ("fast", None, None)
    assert (exact.speed, exact.num_inference_steps, exact.max_guidance_scale) == ("exact", 9, 2)


def test_a_recipe_says_what_is_different_now(
    run: Callable[..., int],
    recorder: Recorder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run("photo.jpg", "-o", "out.mp4", "--seed", "9")
    photo(tmp_path / "other.jpg", shade=100)
    recorder.checkpoint = replace(recorder.checkpoint, source="someone/else")
    monkeypatch.setattr("svd_core.media.recipe._versions", lambda: {"torch": "9.9"})
    capsys.readouterr()
    assert run("--from-recipe", "out.mp4", "other.jpg", "--seed", "10", "-o", "again.mp4") == 0
    photo_differs, weights_differ, *versions_differ = capsys.readouterr().err.splitlines()
    assert photo_differs.startswith("other.jpg is not the photo")
    assert "weights" in weights_differ
    assert any("torch" in line and "9.9" in line for line in versions_differ)
    assert recorder.asked[1] == replace(recorder.asked[0], seed=10, num_frames=3)


def test_a_recipe_fetches_no_checkpoint_that_nobody_chose(
    run: Callable[..., int], recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder.checkpoint = replace(recorder.checkpoint, name="else", source="someone/else")
    assert run("photo.jpg", "-o", "out.mp4") == 0
    capsys.readouterr()
    assert run("--from-recipe", "out.mp4", "photo.jpg", "-o", "again.mp4") == 2
    assert "someone/else" in one_sentence(capsys.readouterr().err)
    again = ("--from-recipe", "out.mp4", "photo.jpg", "--model", "someone/else", "-o", "again.mp4")
    assert run(*again) == 0
    assert [settings.model for settings in recorder.settings] == ["auto", "someone/else"]


def test_help_is_quick_and_fits_a_terminal() -> None:
    code = (
        "import sys\nfrom svd_core.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print(*{'torch', 'diffusers', 'transformers', 'gradio'} & set(sys.modules))"
    )
    environ = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *text, heavy = done.stdout.splitlines()
    assert heavy == ""
    assert max(map(len, text)) <= 100
    for name in LIMITS:
        assert f"  {option(name)} " in done.stdout


def test_every_setting_has_help() -> None:
    assert all(action.help for action in make_parser()._actions)


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us without
sys.path.insert(0, sys.argv.pop(1))
from svd_core.cli.main import main
from tests.cli.test_main import Recorder

class Slow(Recorder):
    def generate(self, image, params, on_progress):
        print("working", flush=True)
        time.sleep(30)

sys.exit(main(sys.argv[1:], Slow().open))
"""


def test_ctrl_c_stops_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    photo(tmp_path / "photo.jpg")
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, str(ROOT), "photo.jpg", "-o", "out.mp4"],
        cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "Stopped.\n"
    assert left_behind(tmp_path) == ["photo.jpg"]


def bar_text(*events: Progress, terminal: bool) -> str:
    """What a bar has shown when `events` are over, without colours."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, no_color=True)
    with progress_bar("photo.jpg", console) as show:
        for event in events:
            show(event)
    return file.getvalue()


def test_the_bar_shows_stage_step_and_time_left() -> None:
    step = Progress(stage=Stage.DENOISING, step=3, total=8, elapsed_s=30, remaining_s=95)
    text = bar_text(step, terminal=True)
    assert "photo.jpg" in text
    assert "denoising 3/8" in text
    assert "1:35 left" in text


def test_no_bar_without_a_terminal() -> None:
    step = Progress(stage=Stage.DENOISING, step=3, total=8, elapsed_s=30, remaining_s=95)
    assert bar_text(step, terminal=False).strip() == ""


@pytest.mark.parametrize(
    ("progress", "share", "text"),
    [
        (Progress(stage=Stage.ENCODING), None, "encoding"),
        (Progress(stage=Stage.DENOISING, step=2, total=8), 0.25, "denoising 2/8"),
        (
            Progress(stage=Stage.DENOISING, step=2, total=8, elapsed_s=30, remaining_s=10),
            0.75,
            "denoising 2/8",
        ),
        (
            Progress(stage=Stage.LOADING, step=2_100_000_000, total=4_200_000_000),
            0.5,
            "loading 2.1/4.2 GB",
        ),
        (
            Progress(stage=Stage.LOADING, step=5_000_000, total=25_000_000),
            0.2,
            "loading 5.0/25.0 MB",
        ),
        (Progress(stage=Stage.DECODING, note="Memory ran out."), None, "Memory ran out."),
    ],
)
def test_what_the_bar_makes_of_an_event(progress: Progress, share: float | None, text: str) -> None:
    assert progress.share == share
    assert progress_text(progress) == text


def test_a_reader_that_has_enough_is_no_error_to_report() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "svd_core", "--recipe", "assets/examples/cat.mp4"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as done:  # fmt: skip
        assert done.stdout is not None
        assert done.stderr is not None
        done.stdout.close()
        assert (done.stderr.read(), done.wait()) == (b"", 1)
