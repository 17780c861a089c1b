"""What has to be done every second: show that this process lives, and see what others did."""

import logging
import threading
from collections.abc import Callable

from svd_core.errors import SvdError
from svd_core.jobs.claims import Hands
from svd_core.jobs.clock import Sightings
from svd_core.jobs.config import Premises
from svd_core.jobs.liveness import Lifeline
from svd_core.jobs.open_jobs import Board
from svd_core.jobs.schema import State
from svd_core.jobs.store import Glance

log = logging.getLogger(__name__)


class Keeper:
    """A thread that keeps `board`, `hands` and the table in step.

    `on_waiting` is called when a job waits that could be begun.
    """

    def __init__(
        self,
        premises: Premises,
        board: Board,
        hands: Hands,
        on_waiting: Callable[[], None],
    ) -> None:
        self._table = premises.table
        self._limits = premises.limits
        self._board = board
        self._hands = hands
        self._on_waiting = on_waiting
        self._lifeline = Lifeline(premises.photos.folder, hands.token)
        self._seen = Sightings()
        self._well = True
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="svd-keeper", daemon=True)

    def start(self) -> None:
        """Returns after the first look: what a dead server left goes before what waits."""
        self._look()
        self._thread.start()

    def close(self, patience_s: float) -> None:
        self._closing.set()
        self._thread.join(patience_s)
        self._lifeline.close()

    def _run(self) -> None:
        while not self._closing.wait(self._limits.every_s):
            self._look()

    def _look(self) -> None:
        try:
            self._beat()
            self._compare()
        except Exception as error:  # noqa: BLE001 - the next look may find all well again
            if self._well:
                known = isinstance(error, SvdError)
                log.warning("The job table is out of sight. %s", error, exc_info=not known)
            self._well = False
        else:
            self._well = True

    def _compare(self) -> None:
        known, held = self._board.versions(), self._hands.held
        glances = self._table.open()
        news = [g.id for g in glances if known.get(g.id, 0) < g.version and g.id not in held]
        gone = known.keys() - {g.id for g in glances}
        missing = gone - self._bring_in([*news, *gone])
        for job_id in missing:
            self._board.forget(job_id)
        for glance in glances:
            self._judge(glance)
        self._seen.keep({g.id for g in glances})
        if self._board.waiting():
            self._on_waiting()

    def _beat(self) -> None:
        for job_id, ticket in self._hands.held.items():
            asked = self._table.beat(job_id, self._hands.token, ticket.snapshot())
            if asked:
                ticket.stop()
            elif asked is None and job_id in self._hands.held:
                ticket.stopping.set()  # somebody else has it now

    def _bring_in(self, wanted: list[str]) -> set[str]:
        """Show these jobs as the table has them. Returns those that it has."""
        rows = []
        for start in range(0, len(wanted), 500):  # databases limit what one statement may name
            rows += self._table.rows(wanted[start : start + 500])
        for row in sorted(rows, key=lambda row: row.number):
            self._board.show(row)
        return {row.id for row in rows}

    def _judge(self, glance: Glance) -> None:
        """Take a job from a worker that is gone, or out of the line if it has waited too long."""
        row = None
        still_s = self._seen.still_s(
            glance.id, glance.version if glance.state == State.RUNNING else glance.state
        )
        if glance.state == State.RUNNING:
            if self._is_gone(glance, still_s):
                row = self._table.abandoned(glance.id, glance.version)
        elif glance.start_timeout_s is not None:
            waited = max(still_s, self._table.clock.now() - glance.submitted)
            if waited >= glance.start_timeout_s:
                row = self._table.time_out(glance.id)
        if row is not None:
            self._board.show(row)

    def _is_gone(self, glance: Glance, still_s: float) -> bool:
        """Whether nobody works on a running job any more. It may also be ours, if the table took a
        change and the word of that was lost on the way."""
        if glance.id in self._hands.held:
            return False
        return still_s >= self._limits.lease_s or self._lifeline.is_cut(glance.worker or "")
