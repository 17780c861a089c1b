"""Command line: photos in, videos out, each error one sentence.

Exit codes: 0 done; 1 a video could not be made or reported; 2 the command, a setting, a photo or a
recipe is wrong; 130 stopped by Ctrl-C. Results go to stdout, everything else to stderr.
"""

import argparse
import json
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.checkpoints.table import CHECKPOINTS
from svd_core.cli.args import InvalidCommand, make_parser
from svd_core.cli.output import OutputFolder, OutputFull, print_result, progress_bar
from svd_core.cli.photos import Photo, find_photos
from svd_core.cli.streams import (
    OutputFailed,
    finish_output,
    prepare_streams,
    print_note,
    write_line,
)
from svd_core.engine.engine import Engine, SvdEngine
from svd_core.errors import (
    Cancelled,
    InvalidImage,
    InvalidRequest,
    InvalidSettings,
    StorageFull,
    SvdError,
)
from svd_core.events import Video
from svd_core.generate import generate
from svd_core.media.recipe import Recipe
from svd_core.params import PARAMETERS, VideoParams, VideoRequest
from svd_core.proxies import prepare_proxies
from svd_core.settings import Settings

EngineFactory = Callable[[Settings], Engine]


def open_engine(settings: Settings) -> Engine:
    """The engine of the settings, without a fallback: the named checkpoint must load."""
    return SvdEngine(
        settings.model,
        settings.offload,
        fallback=False,
        acceleration=AccelerationConfig.from_settings(settings),
    )


def run(argv: Sequence[str] | None = None, engine_factory: EngineFactory = open_engine) -> int:
    """Run `main` as a program, with standard streams that may be closed, full or ASCII-only."""
    prepare_streams()
    try:
        try:
            code = main(argv, engine_factory)
        except SystemExit as end:  # after --help and --version
            code = int(end.code or 0)
        finish_output()
    except BrokenPipeError:  # the reader of the output, such as `head`, has stopped reading
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OutputFailed as error:
        return _fail(error.message, 1)
    return code


def main(argv: Sequence[str] | None = None, engine_factory: EngineFactory = open_engine) -> int:
    """Run the command line and return its exit code; the module's docstring lists the codes."""
    try:
        options = make_parser().parse_args(argv)
        if options.recipe is not None:
            recipe = Recipe.read(options.recipe)
            write_line(json.dumps(json.loads(recipe.to_json()), indent=2))
            return 0
        prepare_proxies(os.environ)
        return _make_videos(options, engine_factory)
    except (KeyboardInterrupt, Cancelled):
        return _fail("Stopped.", 130)
    except (InvalidRequest, InvalidSettings) as error:
        return _fail(error.message, 2)
    except SvdError as error:
        return _fail(error.message, 1)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - users get a sentence for any error
        return _fail(f"Something unexpected went wrong: {_describe(error)}. Please report it.", 1)


def _make_videos(options: argparse.Namespace, engine_factory: EngineFactory) -> int:
    """Make one video per photo, with the settings of the command and the recipe."""
    if not options.photos:
        raise InvalidCommand("photo_argument_missing")
    recipe = None if options.from_recipe is None else _first_clip(Recipe.read(options.from_recipe))
    params = _params(options, recipe)
    model = _model(options.model, recipe)
    photos = find_photos(options.photos)
    output = OutputFolder.from_option(options.output, len(photos))
    output.check_inputs([*(photo.path for photo in photos), *filter(None, [options.from_recipe])])
    environ = os.environ if model is None else {**os.environ, "SVD_MODEL": model}
    engine = engine_factory(Settings.from_env(environ))
    with output.temp_dir():
        code = _make_each(photos, params, recipe, engine, output, options.json)
    if engine.status.notice is not None:
        print_note(engine.status.notice)
    return code


def _make_each(
    photos: Sequence[Photo],
    params: VideoParams,
    recipe: Recipe | None,
    engine: Engine,
    output: OutputFolder,
    as_json: bool,
) -> int:
    """Make and report each video. Report an unusable photo and go on with the next one."""
    code = 0
    for photo in photos:
        try:
            request = VideoRequest(photo.read(), params)
            if recipe is not None and not recipe.matches(request.image):
                print_note(
                    f"{photo.name} is not the photo of the recipe, so the video will differ."
                )
            video = _make_video(photo, request, engine, output)
        except InvalidImage as error:
            code = _fail(f"{photo.name}: {error.message}", 2)
            continue
        reported = _report(photo, video, recipe, as_json)
        code = code or reported
    return code


def _report(photo: Photo, video: Video, recipe: Recipe | None, as_json: bool) -> int:
    """Report a finished video, which is kept in any case. Returns the exit code."""
    try:
        if recipe is not None:
            video = replace(video, notes=(*video.notes, *_differences(recipe, video.path)))
        print_result(photo, video, as_json)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - the video is made, and the next photo follows
        return _fail(f"{video.path} is done, but could not be reported: {_describe(error)}", 1)
    return 0


def _first_clip(recipe: Recipe) -> Recipe:
    """The recipe of the clip made from a photo; the others were made from frames."""
    if len(recipe.clips) > 1:
        print_note(f"The video has {len(recipe.clips)} joined clips. Only the first is made again.")
    return recipe.clips[0]


def _params(options: argparse.Namespace, recipe: Recipe | None) -> VideoParams:
    """The settings of the recipe, if there is one, changed by the options.

    A different speed has its own steps and guidance. The checkpoint is the engine's.
    """
    names = PARAMETERS.keys() - {"model"}
    changes = {name: value for name, value in vars(options).items() if name in names}
    values = {} if recipe is None else recipe.params.to_mapping()
    if changes.get("speed", values.get("speed")) != values.get("speed"):
        for name in ("num_inference_steps", "min_guidance_scale", "max_guidance_scale"):
            values.pop(name, None)
    return VideoParams.from_mapping(values | changes)


def _model(name: str | None, recipe: Recipe | None) -> str | None:
    """New value of `SVD_MODEL`; None keeps the environment's.

    A recipe may come from anywhere, so it cannot make the program download a checkpoint that is
    not in the table.
    """
    if name is not None or recipe is None:
        return name
    if recipe.model in CHECKPOINTS:
        return recipe.model
    raise InvalidCommand("recipe_model_untrusted", model=recipe.source)


def _make_video(photo: Photo, request: VideoRequest, engine: Engine, output: OutputFolder) -> Video:
    with output.staging_dir() as store, progress_bar(photo.title) as on_progress:
        try:
            video = generate(request, engine, store, uuid.uuid4().hex, on_progress)
        except StorageFull as error:
            if error.code != "video_disk_full":
                raise
            raise OutputFull("output_disk_full") from error
        return replace(video, path=output.publish(video.path, photo.stem))


def _differences(recipe: Recipe, made: Path) -> list[str]:
    """Reasons besides the settings why the new video may differ from that of `recipe`."""
    new = Recipe.read(made)
    notes = []
    if any(getattr(recipe, n) != getattr(new, n) for n in ("source", "revision", "fingerprint")):
        notes.append("The weights are not those of the recipe, so the video differs.")
    for name, version in recipe.versions.items():
        if name != "svd_core" and (now := new.versions.get(name)) != version:
            notes.append(f"The recipe used {name} {version}, but {now} is here. Frames may differ.")
    return notes


def _describe(error: Exception) -> str:
    """One line about an error of this app or of a library."""
    if isinstance(error, SvdError):
        return error.message
    return " ".join(f"{type(error).__name__} {error}".split())[:300]


def _fail(sentence: str, code: int) -> int:
    print_note(sentence)
    return code
