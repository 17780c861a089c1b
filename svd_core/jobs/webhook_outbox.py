"""Webhooks that are due: delivered again and again, ever less often, and at last given up."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import ColumnElement, select, update

from svd_core.errors import SvdError, UnknownJob
from svd_core.jobs.clock import Sightings
from svd_core.jobs.interface import Job, Send, Undeliverable
from svd_core.jobs.schema import OUTBOX
from svd_core.jobs.store import JobTable

log = logging.getLogger(__name__)


class Letter(NamedTuple):
    """One webhook. `state`: due, delivered or given up; `problem`: what went wrong last time."""

    job_id: str
    url: str
    state: str
    tries: int
    problem: str


@dataclass(frozen=True)
class Patience:
    """When to try again: after `first_s` seconds, then twice as long each time, at most `most_s`;
    `tries` times in all, which is some two and a half hours with these numbers."""

    first_s: float = 20.0
    most_s: float = 3600.0
    tries: int = 10

    def delay_s(self, tries: int) -> float:
        """Seconds between that many tries and the next."""
        return min(self.first_s * 2.0 ** (tries - 1), self.most_s) if tries else 0.0


USUAL_PATIENCE = Patience()


class Outbox:
    """A thread that has everything delivered that the table says is due, at least once, from any
    number of processes; `at_once` at a time.

    `find` gets the job of an id as it has ended (`JobQueue.latest`), `send` tells an address of it.
    """

    def __init__(
        self,
        table: JobTable,
        find: Callable[[str], Job],
        send: Send,
        patience: Patience = USUAL_PATIENCE,
        *,
        every_s: float = 1.0,
        at_once: int = 4,
    ) -> None:
        self._table = table
        self._find = find
        self._send = send
        self._patience = patience
        self._every_s = every_s
        self._at_once = at_once
        self._seen = Sightings()
        self._sending: dict[str, threading.Thread] = {}
        self._called = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="svd-outbox", daemon=True)
        self._thread.start()

    def letter(self, job_id: str) -> Letter | None:
        """What became of the webhook of a job; None if it has none, or none yet."""
        return next(iter(self._letters(OUTBOX.c.job_id == job_id)), None)

    def close(self, patience_s: float = 5.0) -> None:
        """Send no more. What is not through within `patience_s` is sent again after a restart."""
        self._closing = True
        self._called.set()
        self._thread.join(patience_s)
        for thread in list(self._sending.values()):
            thread.join(patience_s)

    def _run(self) -> None:
        while not self._closing:
            try:
                self._look()
            except SvdError as error:
                log.warning("Webhooks wait. %s", error)
            self._called.wait(self._every_s)
            self._called.clear()

    def _look(self) -> None:
        """Begin what is due, as far as there are hands free."""
        letters = self._letters(OUTBOX.c.state == "due")
        self._seen.keep({letter.job_id for letter in letters})
        for letter in letters:
            waited_s = self._seen.still_s(letter.job_id, letter.tries)
            due = waited_s >= self._patience.delay_s(letter.tries)
            if due and letter.job_id not in self._sending and len(self._sending) < self._at_once:
                self._begin(letter)

    def _begin(self, letter: Letter) -> None:
        """Count the try before it is made, so that no two processes make the same one."""
        if not self._mark(letter, letter._replace(tries=letter.tries + 1)):
            return
        letter = letter._replace(tries=letter.tries + 1)
        thread = threading.Thread(
            target=self._deliver, args=(letter,), name="svd-webhook", daemon=True
        )
        self._sending[letter.job_id] = thread
        thread.start()

    def _deliver(self, letter: Letter) -> None:
        try:
            self._mark(letter, self._tried(letter))
        except SvdError as error:
            log.warning("A webhook of job %s may come again. %s", letter.job_id, error)
        finally:
            del self._sending[letter.job_id]
            self._called.set()

    def _tried(self, letter: Letter) -> Letter:
        """Send `letter`. Returns it as it stands after that."""
        try:
            self._send(self._find(letter.job_id), letter.url)
        except (Undeliverable, UnknownJob) as error:
            return _given_up(letter, str(error))
        except Exception as error:  # noqa: BLE001 - whatever it was, it may be over next time
            problem = f"{type(error).__name__}: {error}"[:500]
            if letter.tries >= self._patience.tries:
                return _given_up(letter, problem)
            return letter._replace(problem=problem)
        return letter._replace(state="delivered", problem="")

    def _letters(self, which: ColumnElement[bool]) -> list[Letter]:
        columns = [OUTBOX.c[name] for name in Letter._fields]
        with self._table.database.read() as connection:
            found = connection.execute(select(*columns).where(which).limit(1000))
            return [Letter(*values) for values in found]

    def _mark(self, before: Letter, after: Letter) -> bool:
        """Write `after`; False if somebody else has tried since `before`."""
        same = (OUTBOX.c.job_id == before.job_id) & (OUTBOX.c.tries == before.tries)
        changes = {"state": after.state, "tries": after.tries, "problem": after.problem}
        with self._table.database.write() as connection:
            return connection.execute(update(OUTBOX).where(same).values(changes)).rowcount == 1


def _given_up(letter: Letter, problem: str) -> Letter:
    log.warning(
        "The webhook of job %s is given up after %d tries: %s", letter.job_id, letter.tries, problem
    )
    return letter._replace(state="given up", problem=problem)
