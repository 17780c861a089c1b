"""Command-line arguments, made from the fields of `VideoParams`, which checks their values."""

import argparse
import os
from functools import partial
from pathlib import Path
from typing import NoReturn

from svd_core import __version__
from svd_core.errors import InvalidRequest
from svd_core.params import PARAMETERS

EPILOG = """examples:
  python -m svd_core photo.jpg -o out.mp4
  python -m svd_core *.jpg -o videos/ --motion-bucket-id 60 --json
  python -m svd_core - -o out.mp4 < photo.jpg
  python -m svd_core --recipe out.mp4
  python -m svd_core --from-recipe out.mp4 photo.jpg -o again.mp4
"""


class InvalidCommand(InvalidRequest):
    """Error in the command itself; the sentence names the option."""

    field = "command"


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one sentence, like all others."""

    def error(self, message: str) -> NoReturn:
        raise InvalidCommand("arguments_invalid", reason=f"{message[:1].upper()}{message[1:]}")


def make_parser() -> argparse.ArgumentParser:
    """Parser of the command line, which raises `InvalidCommand`.

    Its result has only those settings that are on the command line.
    """
    parser = Parser(
        prog="python -m svd_core",
        usage="%(prog)s photo [photo ...] [-o OUT] [options]",
        description="Turn photos into short videos with Stable Video Diffusion.",
        epilog=EPILOG,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=32),
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("photos", nargs="*", metavar="photo",
        help="the photo, several, or a pattern like '*.jpg'; - reads one from stdin")  # fmt: skip
    add("-o", "--output", metavar="OUT", default=f".{os.sep}",
        help="the mp4 to write, or a folder (default: here, under the photo's name)")  # fmt: skip
    add(
        "--model",
        help="a name of the README's table, a hub id or a folder (default: the first of SVD_MODEL)",
    )
    add("--json", action="store_true", help="one line of JSON per video on stdout")
    add("--version", action="version", version=__version__)
    _add_settings(parser.add_argument_group("the video"))
    recipes = parser.add_argument_group("recipes")
    recipes.add_argument("--recipe", type=Path, metavar="VIDEO", help="print what made a video")
    recipes.add_argument(
        "--from-recipe", type=Path, metavar="VIDEO",
        help="take the model and the settings of that video; other options change them",
    )  # fmt: skip
    return parser


def _add_settings(group: "argparse._ArgumentGroup") -> None:
    """One option for each field of `VideoParams`, with help and range from there."""
    for name, parameter in PARAMETERS.items():
        if name == "model":  # an option of its own, for the engine
            continue
        default = "" if parameter.default is None else f" (default: {parameter.default})"
        group.add_argument(
            option(name),
            default=argparse.SUPPRESS,
            metavar="|".join(parameter.words) or parameter.span,
            help=parameter.help + default,
        )


def option(name: str) -> str:
    """Name of the option for a parameter: `--motion-bucket-id` for `motion_bucket_id`."""
    return "--" + name.replace("_", "-")
