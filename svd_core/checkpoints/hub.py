"""Hub download of a checkpoint, limited to the files that running it needs."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import RemoteEntryNotFoundError

from svd_core.checkpoints.hub_errors import explain
from svd_core.checkpoints.table import Checkpoint
from svd_core.errors import ModelBroken, SvdError

OnBytes = Callable[[int, int], None]
"""Called with (bytes loaded, bytes in all)."""

WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "image_encoder": "model",
}
"""Folder of each part with weights, and the stem of its file."""

CONFIGS = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "image_encoder/config.json",
    "scheduler/scheduler_config.json",
    "feature_extractor/preprocessor_config.json",
)
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint's files on disk. `revision`: their commit."""

    folder: Path
    revision: str


def needed_files(files: Iterable[str], half: bool, where: str) -> list[str]:
    """Those of `files` (paths inside a checkpoint) that running it needs.

    `half`: prefer the fp16 variant of weights, about half the bytes. Sharded weights are supported;
    pickled ones, and the single file at the top, are never used. `where`: the checkpoint, for the
    error. Raises `ModelBroken` naming a missing file.
    """
    available = set(files)
    needed = [*CONFIGS, *(available & {"svd.json"})]
    for config in CONFIGS:
        if config not in available:
            raise ModelBroken("model_incomplete", model=where, file=config)
    for part in WEIGHTS:
        needed += weight_files(available, part, half, where)
    return needed


def weight_files(files: Iterable[str], part: str, half: bool, where: str) -> list[str]:
    """The safetensors files of one part, with the index if they are shards. See `needed_files`."""
    available, stem = set(files), f"{part}/{WEIGHTS[part]}"
    for variant in (".fp16", "") if half else ("", ".fp16"):
        if f"{stem}{variant}.safetensors" in available:
            return [f"{stem}{variant}.safetensors"]
        shard = re.compile(rf"{re.escape(stem + variant)}-\d+-of-\d+\.safetensors")
        index = f"{stem}.safetensors.index{variant}.json"
        if index in available:
            return [index, *sorted(file for file in available if shard.fullmatch(file))]
    raise ModelBroken("model_incomplete", model=where, file=f"{stem}.safetensors")


def fetch(checkpoint: Checkpoint, half: bool, on_bytes: OnBytes) -> Snapshot:
    """The files of `checkpoint` on disk, after downloading those that are missing.

    Broken downloads are resumed. If the hub stays unreachable, complete files are kept for the next
    try. With all files on disk no network is needed. HF_ENDPOINT, HF_HOME and HF_TOKEN apply.
    `on_bytes` may raise to stop. Raises subclasses of `ModelUnavailable`.
    """
    try:
        return _download(checkpoint, half, on_bytes)
    except RemoteEntryNotFoundError as error:
        reason = str(error)
        raise ModelBroken("model_file_missing", model=checkpoint.source, reason=reason) from error
    except (SvdError, MemoryError):
        raise
    except Exception as error:  # the client and its libraries raise nearly anything
        cached = _cached(checkpoint, half)
        if cached is None:
            raise explain(checkpoint.source, error) from error
        return cached


def _download(checkpoint: Checkpoint, half: bool, on_bytes: OnBytes) -> Snapshot:
    repo = checkpoint.source
    info = HfApi().model_info(
        repo, revision=checkpoint.revision, timeout=TIMEOUT_S, files_metadata=True
    )
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
    commit = str(info.sha)
    files = needed_files(sizes, half, repo)
    missing = [f for f in files if not _cached_file(repo, f, commit)]
    counter = _Counter(on_bytes, sum(sizes[file] for file in files))
    if missing:
        counter.add(counter.total - sum(sizes[file] for file in missing))
    for file in sorted(missing, key=lambda file: sizes[file]):
        hf_hub_download(repo, file, revision=commit, tqdm_class=counter.bar())
        counter.add(0)
    # By branch, and last: this records the commit for a start without a network.
    index = hf_hub_download(repo, CONFIGS[0], revision=checkpoint.revision)
    return Snapshot(Path(index).parent, commit)


def _cached(checkpoint: Checkpoint, half: bool) -> Snapshot | None:
    """The files of an earlier download, if they are complete."""
    try:
        index = _cached_file(checkpoint.source, CONFIGS[0], checkpoint.revision)
        if index is None:
            return None
        needed_files(files_in(index.parent), half, checkpoint.source)
    except (ModelBroken, OSError, ValueError):  # incomplete, closed to this user, or no hub id
        return None
    return Snapshot(index.parent, index.parent.name)


def files_in(folder: Path) -> list[str]:
    """Every file below `folder`, as a path inside it with forward slashes."""
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _cached_file(repo: str, file: str, revision: str) -> Path | None:
    path = try_to_load_from_cache(repo, file, revision=revision)
    return Path(path) if isinstance(path, str) else None


class _Counter:
    """Sum of the bytes of all files, reported as it grows."""

    def __init__(self, on_bytes: OnBytes, total: int) -> None:
        self.loaded, self.total = 0, total
        self._on_bytes = on_bytes
        self._stopped: BaseException | None = None

    def add(self, count: int) -> None:
        """Raises what `on_bytes` raised, again if the hub's client suppressed it."""
        self.loaded += count
        if self._stopped is not None:
            raise self._stopped
        try:
            self._on_bytes(self.loaded, self.total)
        except BaseException as error:  # Ctrl-C too, which the hub's client may suppress
            self._stopped = error
            raise

    def bar(self) -> Any:
        """A class that the hub's client uses as the progress bar of one file."""
        count = self.add

        class Bar:
            def __init__(self, *_: Any, **options: Any) -> None:
                self.n, self.total = options.get("initial", 0), options.get("total")

            def __enter__(self) -> "Bar":
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def update(self, n: float | None = 1) -> None:
                self.n += int(n or 0)
                count(int(n or 0))

            def _ignore(self, *_: Any, **__: Any) -> None:
                """Transferred bytes, rates and redrawing are not used."""

            update_transfer = set_postfix_str = set_transfer_postfix_str = _ignore
            set_description = set_description_str = refresh = close = reset = _ignore

        return Bar
