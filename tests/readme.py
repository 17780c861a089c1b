"""Generated parts of the documents: `python -m tests.readme` rewrites them from the code.

The markers of a part are `<!-- name -->` and `<!-- end name -->`.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from svd_core.benchmarks.cluster.nodes import head_command, node_command
from svd_core.checkpoints.table import CHECKPOINTS, DEMO_MODEL, Checkpoint
from svd_core.cli.args import option
from svd_core.cluster.config import HEALTH_CHECKS
from svd_core.errors import InvalidSettings, SvdError, ToolFailed, UnknownJob, subclasses_of
from svd_core.messages import DEFAULT_LANGUAGE, sections
from svd_core.params import PARAMETERS
from svd_core.settings import PREFIX, Settings
from svd_core.web.fal.responses import error_response
from svd_core.web.snippets import snippets

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
ARCHITECTURE = ROOT / "svd_core" / "README.md"
HTTP_API = ROOT / "svd_core" / "web" / "fal" / "README.md"
CLUSTER = ROOT / "svd_core" / "cluster" / "README.md"

Parts = Mapping[str, Callable[[], str]]
"""Functions that return the Markdown of each part, by its name."""


def documents() -> list[Path]:
    """Every Markdown document of the project."""
    return [
        *sorted(ROOT.glob("*.md")),
        *sorted((ROOT / "assets").rglob("*.md")),
        *sorted((ROOT / "deploy").rglob("*.md")),
        *sorted((ROOT / "svd_core").rglob("*.md")),
    ]


def generated() -> Mapping[Path, Parts]:
    """The generated parts of each document that has some."""
    return {
        README: {"picture": picture, "curl": curl, "checkpoints": checkpoints},
        ARCHITECTURE: {"parameters": parameters, "settings": settings},
        HTTP_API: {"api": api, "codes": codes},
        CLUSTER: {"head": head, "node": node, "docker": docker},
    }


def picture() -> str:
    text = "The page with a finished video, its motion measured, and what to do next"
    return f"![{text}](assets/page.png)"


def curl() -> str:
    """One API call, as the page shows it too."""
    return fenced("bash", snippets({"motion_bucket_id": 80}).curl)


def api() -> str:
    """The same API call in three languages."""
    code = snippets({"motion_bucket_id": 80})
    return "\n\n".join(
        [fenced("bash", code.curl), fenced("js", code.javascript), fenced("python", code.python)]
    )


def codes() -> str:
    """Every code that the API can answer with, its status, and its two parts of a sentence."""
    kinds = {kind.__name__: kind for kind in subclasses_of(SvdError)}
    rows = []
    for name, texts in sections(DEFAULT_LANGUAGE).items():
        kind = kinds.get(name)
        if kind is None or kind.__module__ != SvdError.__module__ or kind in NOT_SERVED:
            continue
        for code, text in texts.items():
            error = kind.__new__(kind)
            error.message, error.code = text, code
            when, _, remedy = PLACEHOLDER.sub(r"`\1`", text).partition(". ")
            status = f"{error_response(error).status}"
            rows.append((f"`{code}`", status, when.removesuffix("."), remedy))
    return table(("code", "status", "when", "what to do"), rows)


NOT_SERVED = (InvalidSettings, UnknownJob, ToolFailed)
"""Errors that end the program, and the 404, whose body is fal's."""

PLACEHOLDER = re.compile(r"\{(\w+)[^}]*\}")

HEAD = "10.0.0.1"


def head() -> str:
    """Start of the head and of the server, as the tests start theirs."""
    checks = [f"{name}={value}" for name, value in HEALTH_CHECKS.items()]
    return fenced(
        "console",
        f"export {broken(checks)}\n{broken(head_command(HEAD, 6379))}\n"
        f"SVD_CLUSTER={HEAD}:6379 python app.py\n",
    )


def node() -> str:
    return fenced("console", f"{broken(node_command(f'{HEAD}:6379'))}\n")


def docker() -> str:
    """The same command in the image of deploy/Dockerfile."""
    start = [
        "docker run -d", "--restart=always", "--init", "--network=host", "--gpus all",
        "--shm-size=2g", "-e RAY_AUTH_TOKEN", "-e HF_TOKEN", "-v checkpoints:/data", "svd-studio",
    ]  # fmt: skip
    return fenced("console", f"{broken([*start, *node_command(f'{HEAD}:6379')])}\n")


def broken(words: list[str]) -> str:
    """A command in lines of at most 90 characters."""
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) > 88:
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {word}"
    return " \\\n".join(lines)


def fenced(language: str, code: str) -> str:
    return f"```{language}\n{code}```"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def checkpoints() -> str:
    head = ("name", "what it is", "video", "GPU memory", "licence", "from")
    return table(head, [_checkpoint(c) for c in CHECKPOINTS.values()])


def _checkpoint(c: Checkpoint) -> tuple[str, ...]:
    sizes = ", ".join(f"{width}x{height}" for width, height in c.sizes)
    least, most = c.memory_gb
    memory = "not needed" if c.name == DEMO_MODEL else f"{least:g} GB, {most:g} GB without offload"
    place = f"[{c.source}]({c.licence_url})" if c.folder is None else "`assets/svd-nano`"
    licence = f"[{c.licence}]({c.licence_url})" + (", to be accepted first" if c.gated else "")
    return f"`{c.name}`", c.summary, f"{c.num_frames} frames, {sizes}", memory, licence, place


DEFAULTS = {
    "seed": "random", "playback_fps": "`fps`", "decode_chunk_size": "planned",
    "model": "the first of them",
}  # fmt: skip


def parameters() -> str:
    rows = []
    for name, parameter in PARAMETERS.items():
        shown = "the model's" if parameter.default is None else f"{parameter.default}"
        shown = DEFAULTS.get(name, shown)
        span = parameter.span.replace("..", " to ") or ", ".join(parameter.words)
        span = span or "what `SVD_MODEL` names"
        rows.append((f"`{name}`", f"`{option(name)}`", span, shown, parameter.help))
    return table(("name", "option", "range", "default", "what it does"), rows)


def settings() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        if name == "data_dir":
            default = "the user's data folder"
        if default is None:
            default = ""
        shown = f"{default:g}" if isinstance(default, float) else default
        rows.append((f"`{PREFIX}{name.upper()}`", f"{shown}", field.description or ""))
    return table(("variable", "default", "what it sets"), rows)


def rewritten(text: str, parts: Parts) -> str:
    """`text` with every part as the code has it. Raises `ValueError` for a part not in it."""
    for name, content in parts.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->\n"
        before, begun, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (begun and closed):
            raise ValueError(f"The document has no part {name}.")
        text = f"{before}{begin}{content()}\n{end}{after}"
    return text


def main() -> None:
    for path, parts in generated().items():
        text = path.read_text(encoding="utf-8")
        path.write_text(rewritten(text, parts), encoding="utf-8")


if __name__ == "__main__":
    main()
