"""Who drives a study whose ledger is in a database: a lease that is renewed while the driver lives, with a token.

Each lease has a token one above the last. Whoever was cut off and finds a newer token may not write any more, however
late it comes back: the token is checked inside its transaction. Time is the database's alone.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from tuner import lock
from tuner.errors import LedgerError, StudyLocked

SECONDS = 30.0  # that a lease outlives its last renewal
_RENEWALS = 10  # in that time; each also brings word from whoever wants the driver to stop
_RETRY_SECONDS = 1.0  # after one that failed
_WISH = "stop"  # in what a driver has signed: somebody else's word that it is to leave

_held: set[tuple[str, int, int]] = set()  # database, study and token of the leases of this process


class Leases:
    """The table, and the statements about it."""

    def __init__(self, schema: sa.MetaData) -> None:
        table = sa.Table(
            "tuner_leases",
            schema,
            sa.Column("study", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("token", sa.BigInteger, nullable=False),
            sa.Column("holder", sa.Text),
            sa.Column("expires", sa.DateTime(timezone=True)),
        )
        mine = table.c.study == sa.bindparam("of")
        now = sa.func.clock_timestamp()
        until = now + sa.cast(sa.func.make_interval(0, 0, 0, 0, 0, 0, sa.bindparam("seconds")), sa.Interval)
        ours = sa.update(table).where(mine, table.c.token == sa.bindparam("held"))
        left = sa.func.extract("epoch", table.c.expires - now)
        self.made = sa.insert(table).values(study=sa.bindparam("study"), token=0)
        self.deleted = sa.delete(table).where(mine)
        self.seen = sa.select(table.c.token, table.c.holder, left.label("left")).where(mine)
        self.taken = (
            sa.update(table).where(mine).values(token=table.c.token + 1, expires=until).returning(table.c.token)
        )
        self.taken = self.taken.values(holder=sa.bindparam("signed"))
        self.renewed = ours.values(expires=until).returning(table.c.holder)
        self.signed = ours.values(holder=sa.bindparam("signed"))
        self.released = ours.values(expires=None, holder=None)


class Lease:
    """The lease of one study, as this process sees it, holding it or not."""

    def __init__(self, engine: sa.Engine, leases: Leases, study: int, title: str) -> None:
        self._engine, self._leases, self._title = engine, leases, title
        self._of = {"of": study}
        self._database = engine.url.render_as_string(hide_password=True)
        self._token: int | None = None
        self._over = threading.Event()
        self._lost = False
        self.asked_to_stop = False  # by somebody else, as far as the last renewal knows

    def take(self, turn: sa.Select[Any]) -> None:
        """Hold the study. `turn` waits for the transactions that are writing. Raises StudyLocked."""
        now = datetime.now(UTC).astimezone().isoformat(timespec="seconds")
        signed = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now})
        with self._engine.begin() as connection:
            self._refuse(connection)  # at once, where a driver is known
            connection.execute(turn, {"study": self._of["of"]})
            self._refuse(connection)
            values = {"signed": signed, "seconds": SECONDS, **self._of}
            self._token = connection.scalar(self._leases.taken, values)
        assert self._token is not None
        _held.add(self._key(self._token))
        self._lost, self.asked_to_stop, self._over = False, False, threading.Event()
        threading.Thread(target=self._renew, args=(self._token, self._over), name="lease", daemon=True).start()

    def _refuse(self, connection: sa.Connection) -> None:
        if who := self.holder(connection):
            raise StudyLocked(lock.refusal(self._title, who))

    def release(self) -> None:
        """Let go; a database that is away will find the lease run out."""
        self._over.set()
        token, self._token = self._token, None
        if token is None:
            return
        _held.discard(self._key(token))
        try:
            with self._engine.begin() as connection:
                connection.execute(self._leases.released, {"held": token, **self._of})
        except sa.exc.DBAPIError:
            return

    def holder(self, connection: sa.Connection) -> dict[str, Any] | None:
        """Who holds it now, None where nobody does, or who does is known to be dead."""
        row = connection.execute(self._leases.seen, self._of).one()
        if row.holder is None or row.left is None or row.left <= 0:
            return None
        found: dict[str, Any] = json.loads(row.holder)
        found.pop(_WISH, None)
        if found["host"] == socket.gethostname() and found["pid"] == os.getpid():
            # A process of the same number in a container that was started again is another one.
            return found if self._key(row.token) in _held else None
        return found if lock.lives(found) else None

    def ask_to_stop(self, connection: sa.Connection, who: dict[str, Any]) -> None:
        """Leave word for the driver that `holder` has told of, unless another one has followed it."""
        row = connection.execute(self._leases.seen, self._of).one()
        if self.holder(connection) == who:
            connection.execute(
                self._leases.signed, {"held": row.token, "signed": json.dumps({**who, _WISH: True}), **self._of}
            )

    def check(self, connection: sa.Connection) -> None:
        """Raises LedgerError where this process held the lease, and another one has taken it."""
        if self._token is None:
            return
        row = connection.execute(self._leases.seen, self._of).one()
        if row.token != self._token:
            self._lost = True
            who = json.loads(row.holder) if row.holder else {"host": "another machine", "pid": "?", "since": "then"}
            raise LedgerError(
                f"study {self._title} was taken over by {who['host']}:{who['pid']} (since {who['since']}) while this "
                "process was cut off from the ledger; this process stops: nothing acknowledged is lost"
            )

    def check_known(self) -> None:
        """The same without asking: as far as the last renewal knows."""
        if self._lost and self._token is not None:
            with self._engine.connect() as connection:
                self.check(connection)

    def _key(self, token: int) -> tuple[str, int, int]:
        return (self._database, self._of["of"], token)

    def _renew(self, token: int, over: threading.Event) -> None:
        """Until it is over, or the lease is another's."""
        pause = SECONDS / _RENEWALS
        while not over.wait(pause):
            try:
                self._lost = not self._renew_once(token)
            except sa.exc.DBAPIError:
                pause = min(_RETRY_SECONDS, SECONDS / _RENEWALS)
            else:
                pause = SECONDS / _RENEWALS
            if self._lost:
                return

    def _renew_once(self, token: int) -> bool:
        """False where there is a newer token."""
        with self._engine.begin() as connection:
            values = {"held": token, "seconds": SECONDS, **self._of}
            holder = connection.execute(self._leases.renewed, values).scalar_one_or_none()
        self.asked_to_stop = holder is not None and _WISH in json.loads(holder)
        return holder is not None
