"""Secrets of this server: generated once, kept in the data folder."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from svd_core.errors import InvalidSettings

BYTES = 32


def load_secret(path: Path) -> bytes:
    """The 32 bytes in `path` (hexadecimal, readable by its owner only), drawn if there are none.

    Of several servers that start at once on one folder, the first one's are everybody's. Raises
    `InvalidSettings` for a file that holds something else, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _generate(path)
        secret = bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise InvalidSettings(f"The secret in {path} cannot be read or made: {error}") from error
    if len(secret) != BYTES:
        raise InvalidSettings(f"{path} is damaged; remove it, and a new secret will be drawn.")
    return secret


def _generate(path: Path) -> None:
    """Written whole under another name first, so that nobody ever reads half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(BYTES))
        file.flush()
        os.fsync(file.fileno())
    try:
        with suppress(FileExistsError):
            os.link(draft, path)  # unlike a rename it does not replace what another one has made
    finally:
        draft.unlink()
