"""Transfer of a stored video between machines, in chunks: whole or not there.

A file takes its own name when all of its chunks have arrived. What breaks off leaves nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO

from svd_core.media.ffmpeg import atomic_write
from svd_core.storage import FRAMES, VIDEO, ResultStore

CHUNK_BYTES = 8 << 20
"""Ray copies smaller values between processes once more, and keeps a whole one in memory."""

SUFFIXES = (VIDEO, FRAMES)
"""Files of a video that travel. The video itself is renamed last, since it is the result."""


@dataclass(frozen=True)
class Chunk:
    """The next bytes of the file with that `suffix`; chunks of one file come in order."""

    suffix: str
    data: bytes = field(repr=False)


def read_chunks(store: ResultStore, job_id: str) -> Iterator[Chunk]:
    """The files of `job_id` in `store`, as far as they exist. Raises `OSError`."""
    for suffix in SUFFIXES:
        path = store.path(job_id).with_suffix(suffix)
        if path.is_file():
            with path.open("rb") as file:
                while data := file.read(CHUNK_BYTES):
                    yield Chunk(suffix, data)


@contextmanager
def write_chunks(store: ResultStore, job_id: str) -> Iterator[Callable[[Chunk], None]]:
    """A function that writes chunks to the files of `job_id` in `store`.

    The files appear when the block ends well, and no part of them stays otherwise. Raises
    `StorageFull`, `ServerBusy`, `GenerationFailed`.
    """
    with ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}

        def write(chunk: Chunk) -> None:
            if chunk.suffix not in files:
                assert chunk.suffix in SUFFIXES
                path = store.path(job_id).with_suffix(chunk.suffix)
                part = stack.enter_context(atomic_write(path))
                files[chunk.suffix] = stack.enter_context(part.open("wb"))
            files[chunk.suffix].write(chunk.data)

        yield write
