"""The queue over the job table, whoever does the work: a thread here, a watcher, other servers."""

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from uuid import uuid4

from svd_core.errors import QueueFull, ServerStopping, SvdError, UnknownJob
from svd_core.events import Event, Failed
from svd_core.jobs.claims import Hands
from svd_core.jobs.config import Premises
from svd_core.jobs.heartbeat import Keeper
from svd_core.jobs.interface import USUAL, Cancellation, JobOptions, RemoteRequest
from svd_core.jobs.job import Ticket
from svd_core.jobs.open_jobs import Board
from svd_core.jobs.schema import Row, State
from svd_core.params import VideoRequest

log = logging.getLogger(__name__)


class TableQueue:
    """Implements `JobQueue` less the work, which is left to subclasses, or to other processes that
    share the table and the disk of the photos."""

    in_turn = True
    """Whether one job waits for another, and only those that wait count as such."""

    def __init__(self, premises: Premises) -> None:
        self._table = premises.table
        self._store = premises.photos
        self._photos = premises.job_photos
        premises.table.on_released = self._release
        self._limits = premises.limits
        self._board = Board(self._ticket, self.in_turn)
        self._hands = Hands(premises, self._board)
        self._keeper = Keeper(premises, self._board, self._hands, self._look_for_work)
        self._keeper.start()

    def submit(self, request: VideoRequest | RemoteRequest, options: JobOptions = USUAL) -> Ticket:
        self.ensure_room(options)  # what the table is going to refuse need not fill the disk first
        photo, ensure = self._placed(request)
        row = self._table.new(uuid4().hex, request.params, options, **photo)
        states = (State.WAITING,) if self.in_turn else (State.WAITING, State.RUNNING)

        def admit(there: int, own: int) -> None:
            self._admit(options, there, own)
            ensure()

        try:
            row = self._table.insert(row, states, admit)
        except SvdError:
            if row.image is not None:
                self._release(row.image)
            raise
        ticket = self._board.show(row)
        self._look_for_work()
        return ticket

    def ensure_room(self, options: JobOptions = USUAL) -> None:
        self._refuse_if_closed()
        self._admit(options, self._board.taken(), self._board.taken(options.owner))

    def room(self, owner: str = "") -> int:
        most, own_most = self._limits.max_queue, self._limits.max_per_owner
        left = most - self._board.taken()
        if own_most is not None:
            left = min(left, own_most - self._board.taken(owner))
        return max(left, 0)

    def reject(self, error: SvdError, options: JobOptions = USUAL) -> Ticket:
        self._refuse_if_closed()
        row = self._table.new(uuid4().hex, None, options)
        return self._ticket(self._table.insert_ended(row, Failed(error)))

    def get(self, job_id: str) -> Ticket:
        if (ticket := self._board.find(job_id)) is not None:
            return ticket
        return self.latest(job_id)

    def latest(self, job_id: str) -> Ticket:
        return self._shown(self._row(job_id))

    def of_owner(self, owner: str, limit: int = 100) -> list[Ticket]:
        return [self._shown(row) for row in self._table.of_owner(owner, limit)]

    def photo(self, job_id: str) -> bytes | None:
        name = self._row(job_id).image
        return None if name is None else self._store.read(name)

    def at_hand(self, job_id: str) -> Ticket | None:
        return self._board.find(job_id)

    def position(self, job_id: str) -> int:
        self.get(job_id)
        return self._board.position(job_id)

    def length(self) -> int:
        return self._board.waiting()

    def close(self) -> None:
        self._hands.closing.set()
        self._stop_work(self._limits.patience_s)
        for ticket in self._hands.held.values():
            log.warning("Job %s did not stop in time; it goes back in line.", ticket.id)
            with suppress(SvdError):  # then the next server has to find out by itself
                self._hands.put_back(ticket)
        self._keeper.close(self._limits.patience_s)
        self._board.close()

    def _look_for_work(self) -> None:
        """A job may wait that could be begun here."""

    def _stop_work(self, patience_s: float) -> None:
        """Return when the work has stopped, or is not going to within `patience_s`."""

    def _watched(self, _: Ticket) -> Iterator[Event] | None:
        """Somebody begins to watch a job; see `Ticket`."""
        return None

    def _row(self, job_id: str) -> Row:
        row = self._table.row(job_id)
        if row is None:
            raise UnknownJob("This job is not known here any more; please make the video again.")
        return row

    def _shown(self, row: Row) -> Ticket:
        return self._ticket(row) if row.state is State.ENDED else self._board.show(row)

    def _ticket(self, row: Row) -> Ticket:
        return Ticket(row, self._table.clock.now, self._cancel, self._watched)

    def _placed(
        self, request: VideoRequest | RemoteRequest
    ) -> tuple[dict[str, str], Callable[[], None]]:
        """The columns of the photo, and what makes sure that it is there."""
        if isinstance(request, RemoteRequest):
            return {"image_url": request.image_url}, lambda: None
        name, ensure = self._photos.put(request.image)
        more = {} if request.continues is None else {"continues": request.continues}
        return {"image": name} | more, ensure

    def _release(self, name: str) -> None:
        with suppress(SvdError):  # then the next sweep removes it
            self._photos.release(name)

    def _cancel(self, job_id: str) -> Cancellation:
        try:
            what, row = self._table.cancel(job_id)
        except UnknownJob:  # over for so long that it is forgotten
            return Cancellation.TOO_LATE
        ticket = self._board.show(row)
        if what is Cancellation.REQUESTED:
            ticket.stop()
        return what

    def _refuse_if_closed(self) -> None:
        if self._hands.closing.is_set():
            raise ServerStopping("The server is stopping; please try again in a minute.")

    def _admit(self, options: JobOptions, there: int, own: int) -> None:
        own_most, verb = self._limits.max_per_owner, "waiting" if self.in_turn else "being made"
        too_many = options.max_waiting is not None and there > options.max_waiting
        if too_many or there >= self._limits.max_queue:
            raise QueueFull(
                f"{there} videos are {verb} already, which is as many as fit; "
                "please try again in a few minutes."
            )
        if own_most is None or own < own_most:
            return
        if options.owner:
            raise QueueFull(
                f"{own} of your videos are {verb} already, which is as many as you may have; "
                "please try again when one is done."
            )
        raise QueueFull(
            f"{own} videos of callers without a name are {verb} already, which is as many as fit; "
            "please try again in a few minutes."
        )
