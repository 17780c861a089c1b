"""Jobs in the hands of this process: taken from the table, kept alive there, and ended."""

import logging
import threading
from collections.abc import Mapping
from uuid import uuid4

from svd_core.errors import GenerationFailed
from svd_core.events import OnProgress, Progress, Stage, Stopped, Succeeded
from svd_core.jobs.config import Premises
from svd_core.jobs.database import insisted
from svd_core.jobs.job import Ticket
from svd_core.jobs.open_jobs import Board
from svd_core.jobs.schema import Row
from svd_core.jobs.transitions import Ending
from svd_core.params import VideoRequest
from svd_core.storage import bytes_of

STOPPED = "The server was stopped; the video is made as soon as it is back."

log = logging.getLogger(__name__)


class Hands:
    """Safe to use from any thread. `token` tells this process from all others."""

    def __init__(self, premises: Premises, board: Board) -> None:
        self.token = uuid4().hex
        self.closing = threading.Event()
        self._table = premises.table
        self._photos = premises.photos
        self._fetch = premises.fetch
        self._board = board
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

    def put_back(self, ticket: Ticket, note: str = STOPPED) -> None:
        """Give a job its place in line again, as if it had not been begun."""
        self._held.pop(ticket.id, None)
        row = insisted(lambda: self._table.release(ticket.id, self.token, note), self.closing)
        if row is not None:
            self._board.show(row)

    def _write(self, ticket: Ticket, ending: Ending) -> None:
        """Minutes of work are not to be lost. If the server stops before, they are done again; if
        somebody took the job over while this process slept, they are not wanted."""
        size = _size(ending)
        row = insisted(
            lambda: self._table.end(ticket.id, self.token, ticket.snapshot(), ending, size),
            self.closing,
        )
        if row is not None:
            self._board.show(row)


def _size(ending: Ending) -> int:
    """Bytes on disk."""
    return bytes_of(ending.video.path) if isinstance(ending, Succeeded) else 0
