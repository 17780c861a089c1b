"""Jobs in the hands of this process: taken from the table, kept alive there, and ended."""

import logging
import threading
from collections.abc import Mapping
from uuid import uuid4

from svd_core.errors import GenerationFailed, QueueUnavailable, StorageFull
from svd_core.events import OnProgress, Progress, Stage, Stopped, Succeeded
from svd_core.jobs.board import Board
from svd_core.jobs.protocol import Fetch
from svd_core.jobs.rows import Ending
from svd_core.jobs.schema import Row
from svd_core.jobs.table import JobTable
from svd_core.jobs.ticket import Ticket
from svd_core.params import VideoRequest
from svd_core.storage import PhotoStore, bytes_of

RETRY_S = 1.0
"""Seconds until an ending that could not be written is tried again."""

log = logging.getLogger(__name__)


class Hands:
    """Safe to use from any thread. `token` tells this process from all others."""

    def __init__(self, table: JobTable, board: Board, photos: PhotoStore, fetch: Fetch) -> None:
        self.token = uuid4().hex
        self.closing = threading.Event()
        self._table = table
        self._board = board
        self._photos = photos
        self._fetch = fetch
        self._held: dict[str, Ticket] = {}

    @property
    def held(self) -> Mapping[str, Ticket]:
        """The jobs under way here."""
        return self._held.copy()

    def take(self, job_id: str | None = None) -> tuple[Ticket, Row] | None:
        """Begin the first job in line, or that of `job_id`; None if there is nothing to begin."""
        row = None if self.closing.is_set() else self._table.claim(self.token, job_id)
        if row is None:
            return None
        ticket = self._held[row.id] = self._board.show(row)
        if not row.stop_asked:
            ticket.stopping.clear()  # it may have been ours before, and lost
        return ticket, row

    def must_stop(self, ticket: Ticket) -> bool:
        return ticket.stopping.is_set() or self.closing.is_set()

    def request(self, row: Row, on_progress: OnProgress) -> VideoRequest:
        """What is to be made, with the photo. Raises what `fetch` does, and `GenerationFailed`."""
        if row.params is None:
            raise GenerationFailed(
                "The server has changed since you asked for this video; please make it again."
            )
        if row.image is not None:
            return VideoRequest(self._photos.read(row.image), row.params, row.continues)
        assert row.image_url is not None
        on_progress(Progress(stage=Stage.FETCHING))
        return VideoRequest(self._fetch(row.image_url), row.params)

    def end(self, ticket: Ticket, ending: Ending) -> None:
        """Write down how a job ended. One that stopped because the server does has not ended."""
        try:
            if (
                isinstance(ending, Stopped)
                and not ticket.stopping.is_set()
                and self.closing.is_set()
            ):
                self.put_back(ticket)
            else:
                self._write(ticket, ending)
        finally:
            self._held.pop(ticket.id, None)

    def put_back(self, ticket: Ticket) -> None:
        """Give a job its place in line again, as if it had not been begun."""
        self._held.pop(ticket.id, None)
        if (row := self._table.release(ticket.id, self.token)) is not None:
            self._board.show(row)

    def _write(self, ticket: Ticket, ending: Ending) -> None:
        """Minutes of work are not to be lost: whatever ails the table, try until it is done."""
        size = _size(ending)
        while True:
            try:
                row = self._table.end(ticket.id, self.token, ticket.snapshot(), ending, size)
            except (QueueUnavailable, StorageFull) as error:
                log.warning("The end of job %s is not written yet. %s", ticket.id, error)
                if self.closing.wait(RETRY_S):
                    return  # it is begun again after the restart
            else:
                if row is not None:  # else somebody took it over while this process slept
                    self._board.show(row)
                return


def _size(ending: Ending) -> int:
    """Bytes on disk."""
    return bytes_of(ending.video.path) if isinstance(ending, Succeeded) else 0
