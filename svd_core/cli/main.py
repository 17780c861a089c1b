"""The command line: photos in, videos out, each error one sentence.

Exit codes: 0 done; 1 it could not be made; 2 the command, a setting, a photo or a recipe is
wrong; 130 stopped by Ctrl-C. Results go to stdout, everything else to stderr.
"""

import argparse
import json
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.checkpoints.table import CHECKPOINTS
from svd_core.cli.args import InvalidCommand, make_parser
from svd_core.cli.output import OutputFolder
from svd_core.cli.progress import progress_bar
from svd_core.engine.engine import Engine, SvdEngine
from svd_core.errors import Cancelled, InvalidImage, InvalidRequest, InvalidSettings, SvdError
from svd_core.events import Video
from svd_core.generate import generate
from svd_core.media.recipe import Recipe
from svd_core.params import VideoParams, VideoRequest
from svd_core.settings import Settings

EngineFactory = Callable[[Settings], Engine]


def open_engine(settings: Settings) -> Engine:
    """Without a fall-back: who names a checkpoint on the command line wants that one or none."""
    return SvdEngine(
        settings.model,
        settings.offload,
        fallback=False,
        acceleration=AccelerationConfig.from_settings(settings),
    )


def main(argv: Sequence[str] | None = None, engine_factory: EngineFactory = open_engine) -> int:
    """Run the command line and return its exit code; see the top of the file for the codes."""
    try:
        asked = make_parser().parse_args(argv)
        if asked.recipe is not None:
            print(json.dumps(json.loads(Recipe.read(asked.recipe).to_json()), indent=2))
            return 0
        return _make_videos(asked, engine_factory)
    except (KeyboardInterrupt, Cancelled):
        return _fail("Stopped.", 130)
    except (InvalidRequest, InvalidSettings) as error:
        return _fail(error.message, 2)
    except SvdError as error:
        return _fail(error.message, 1)


def _make_videos(asked: argparse.Namespace, engine_factory: EngineFactory) -> int:
    """One video per photo. A photo that cannot be used is reported, and the next one taken."""
    if not asked.photos:
        raise InvalidCommand("There is no photo; --help shows how to name one.")
    recipe = None if asked.from_recipe is None else _first_clip(Recipe.read(asked.from_recipe))
    params = _params(asked, recipe)
    model = _model(asked.model, recipe)
    output = OutputFolder.from_option(asked.output, len(asked.photos))
    environ = os.environ if model is None else {**os.environ, "SVD_MODEL": model}
    engine = engine_factory(Settings.from_env(environ))
    code = 0
    for photo in asked.photos:
        try:
            request = VideoRequest(_read(photo), params)
            if recipe is not None and not recipe.matches(request.image):
                _print_note(
                    f"{photo} is not the photo of the recipe, so the video will be another."
                )
            video = _make_video(photo, request, engine, output)
        except InvalidImage as error:
            code = _fail(f"{photo}: {error.message}", 2)
            continue
        if recipe is not None:
            video = replace(video, notes=(*video.notes, *_differences(recipe, video.path)))
        _report(photo, video, asked.json)
    if engine.status.notice is not None:
        _print_note(engine.status.notice)
    return code


def _first_clip(recipe: Recipe) -> Recipe:
    """That of the clip made from a photo; the others were made from frames."""
    if len(recipe.clips) > 1:
        _print_note(
            f"The video was joined of {len(recipe.clips)} clips; the first of them is made."
        )
    return recipe.clips[0]


def _params(asked: argparse.Namespace, recipe: Recipe | None) -> VideoParams:
    """The settings of the recipe, if there is one, changed by those given as options. Another speed
    has steps and guidance of its own; the checkpoint is the one that the engine is opened with."""
    names = {field.name for field in fields(VideoParams)} - {"model"}
    given = {name: value for name, value in vars(asked).items() if name in names}
    known = {} if recipe is None else recipe.params.to_mapping()
    if given.get("speed", known.get("speed")) != known.get("speed"):
        for name in ("num_inference_steps", "min_guidance_scale", "max_guidance_scale"):
            known.pop(name, None)
    return VideoParams.from_mapping(known | given)


def _model(asked: str | None, recipe: Recipe | None) -> str | None:
    """Value for `SVD_MODEL`; None: unchanged. A recipe may come from anywhere, so it must not
    cause a download of a checkpoint that the user did not choose."""
    if asked is not None or recipe is None:
        return asked
    if recipe.model in CHECKPOINTS:
        return recipe.model
    raise InvalidCommand(
        f"The recipe names the checkpoint {recipe.source}, which is not in the table; if you have "
        "it or trust it, name it with --model."
    )


def _read(photo: Path) -> bytes:
    try:
        return photo.read_bytes()
    except OSError as error:
        raise InvalidImage(f"it cannot be read ({error.strerror or error}).") from error


def _make_video(photo: Path, request: VideoRequest, engine: Engine, output: OutputFolder) -> Video:
    with output.staging_dir() as store, progress_bar(photo.name) as on_progress:
        video = generate(request, engine, store, uuid.uuid4().hex, on_progress)
        return replace(video, path=output.publish(video.path, photo))


def _differences(recipe: Recipe, made: Path) -> list[str]:
    """Why `made` may not be, frame for frame, the video of `recipe`, its settings apart."""
    again = Recipe.read(made)
    found = []
    if (recipe.source, recipe.revision, recipe.fingerprint) != (
        again.source, again.revision, again.fingerprint
    ):  # fmt: skip
        found.append("The weights are not those of the recipe, so the video is another.")
    for name, version in recipe.versions.items():
        now = again.versions.get(name)
        if name != "svd_core" and now != version:
            found.append(f"The recipe used {name} {version}, here is {now}; frames may differ.")
    return found


def _report(photo: Path, video: Video, as_json: bool) -> None:
    if as_json:
        line = {"photo": str(photo)} | asdict(video) | {"path": str(video.path)}
        print(json.dumps(line), flush=True)
        return
    print(
        f"{video.path}: {video.num_frames} frames of {video.width}x{video.height} at "
        f"{video.fps} fps, seed {video.seed}, {video.model}, {video.elapsed_s:.1f} s",
        flush=True,
    )
    for note in video.notes:
        _print_note(note)


def _print_note(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _fail(sentence: str, code: int) -> int:
    _print_note(sentence)
    return code
