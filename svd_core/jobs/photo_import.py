"""Import of the photos that older versions kept as files beside the table.

A file is removed after its photo is in the table, so a process that dies in between loses nothing.
"""

import logging
from contextlib import suppress
from pathlib import Path

from sqlalchemy import insert, select

from svd_core.jobs.schema import JOBS, PHOTOS
from svd_core.jobs.store import JobTable

log = logging.getLogger(__name__)


def import_photos(table: JobTable, folder: Path) -> None:
    """Move the photos in `folder` into `table`, and remove the folder. Those that no job refers to
    are deleted. Raises `StorageFull`, `QueueUnavailable`; then the next call goes on."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        try:
            _import(table, path)
            path.unlink()
        except OSError as error:
            log.warning("The photo %s cannot be moved into the job table: %s", path, error)
    with suppress(OSError):  # what could not be read is still there
        folder.rmdir()


def _import(table: JobTable, path: Path) -> None:
    referred = select(JOBS.c.id).where(JOBS.c.image == path.name).limit(1)
    stored = select(PHOTOS.c.name).where(PHOTOS.c.name == path.name)
    with table.database.write() as connection:
        if connection.scalar(referred) is not None and connection.scalar(stored) is None:
            photo = path.read_bytes()
            values = {"name": path.name, "bytes": len(photo), "data": photo}
            connection.execute(insert(PHOTOS).values(values))
