"""Command line: photos in, videos out, each error one sentence.

Exit codes: 0 done; 1 a video could not be made; 2 the command, a setting, a photo or a recipe is
wrong; 130 stopped by Ctrl-C. Results go to stdout, everything else to stderr.
"""

import argparse
import json
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

from svd_core.checkpoints.speed_modes import AccelerationConfig
from svd_core.checkpoints.table import CHECKPOINTS
from svd_core.cli.args import InvalidCommand, make_parser
from svd_core.cli.output import OutputFolder, print_note, print_result, progress_bar
from svd_core.engine.engine import Engine, SvdEngine
from svd_core.errors import Cancelled, InvalidImage, InvalidRequest, InvalidSettings, SvdError
from svd_core.events import Video
from svd_core.generate import generate
from svd_core.media.recipe import Recipe
from svd_core.params import VideoParams, VideoRequest
from svd_core.proxies import prepare_proxies
from svd_core.settings import Settings

EngineFactory = Callable[[Settings], Engine]


def open_engine(settings: Settings) -> Engine:
    """The engine of the settings, without a fallback: a checkpoint that was named must load."""
    return SvdEngine(
        settings.model,
        settings.offload,
        fallback=False,
        acceleration=AccelerationConfig.from_settings(settings),
    )


def main(argv: Sequence[str] | None = None, engine_factory: EngineFactory = open_engine) -> int:
    """Run the command line and return its exit code; the module's docstring lists the codes."""
    try:
        options = make_parser().parse_args(argv)
        if options.recipe is not None:
            print(json.dumps(json.loads(Recipe.read(options.recipe).to_json()), indent=2))
            return 0
        prepare_proxies(os.environ)
        return _make_videos(options, engine_factory)
    except (KeyboardInterrupt, Cancelled):
        return _fail("Stopped.", 130)
    except (InvalidRequest, InvalidSettings) as error:
        return _fail(error.message, 2)
    except SvdError as error:
        return _fail(error.message, 1)


def _make_videos(options: argparse.Namespace, engine_factory: EngineFactory) -> int:
    """Make one video per photo; report a photo that cannot be used and take the next one."""
    if not options.photos:
        raise InvalidCommand("There is no photo; --help shows how to name one.")
    recipe = None if options.from_recipe is None else _first_clip(Recipe.read(options.from_recipe))
    params = _params(options, recipe)
    model = _model(options.model, recipe)
    output = OutputFolder.from_option(options.output, len(options.photos))
    environ = os.environ if model is None else {**os.environ, "SVD_MODEL": model}
    engine = engine_factory(Settings.from_env(environ))
    code = 0
    for photo in options.photos:
        try:
            request = VideoRequest(_read(photo), params)
            if recipe is not None and not recipe.matches(request.image):
                print_note(f"{photo} is not the photo of the recipe, so the video will be another.")
            video = _make_video(photo, request, engine, output)
        except InvalidImage as error:
            code = _fail(f"{photo}: {error.message}", 2)
            continue
        if recipe is not None:
            video = replace(video, notes=(*video.notes, *_differences(recipe, video.path)))
        print_result(photo, video, options.json)
    if engine.status.notice is not None:
        print_note(engine.status.notice)
    return code


def _first_clip(recipe: Recipe) -> Recipe:
    """The recipe of the clip made from a photo; the others were made from frames."""
    if len(recipe.clips) > 1:
        print_note(f"The video was joined of {len(recipe.clips)} clips; the first of them is made.")
    return recipe.clips[0]


def _params(options: argparse.Namespace, recipe: Recipe | None) -> VideoParams:
    """The settings of the recipe, if there is one, changed by the options.

    Another speed has steps and guidance of its own. The checkpoint is the engine's.
    """
    names = {field.name for field in fields(VideoParams)} - {"model"}
    given = {name: value for name, value in vars(options).items() if name in names}
    known = {} if recipe is None else recipe.params.to_mapping()
    if given.get("speed", known.get("speed")) != known.get("speed"):
        for name in ("num_inference_steps", "min_guidance_scale", "max_guidance_scale"):
            known.pop(name, None)
    return VideoParams.from_mapping(known | given)


def _model(name: str | None, recipe: Recipe | None) -> str | None:
    """New value of `SVD_MODEL`; None keeps the environment's.

    A recipe may come from anywhere, so it cannot make the program download a checkpoint that is
    not in the table.
    """
    if name is not None or recipe is None:
        return name
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
    """Reasons besides the settings why the new video may differ from that of `recipe`."""
    new_recipe = Recipe.read(made)
    notes = []
    if (recipe.source, recipe.revision, recipe.fingerprint) != (
        new_recipe.source, new_recipe.revision, new_recipe.fingerprint
    ):  # fmt: skip
        notes.append("The weights are not those of the recipe, so the video is another.")
    for name, version in recipe.versions.items():
        now = new_recipe.versions.get(name)
        if name != "svd_core" and now != version:
            notes.append(f"The recipe used {name} {version}, here is {now}; frames may differ.")
    return notes


def _fail(sentence: str, code: int) -> int:
    print_note(sentence)
    return code
