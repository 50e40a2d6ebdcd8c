"""A ledger in a PostgreSQL database, with those of other studies: for a service, whose home is no place for a truth.

Knows the database's address, its tables, which errors pass, and how a transaction outlives them. Who may write is
`lease`'s. The address may hold a password: what is said or stored names host and database alone.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from tuner.errors import InputError, LedgerError, first_line
from tuner.home import ADDRESS, ELSEWHERE, LEDGER
from tuner.ledger.lease import Lease, Leases
from tuner.ledger.place import Place, T, Transaction
from tuner.ledger.sqlite import unwritable
from tuner.ledger.tables import Row, Tables

OUTAGE_SECONDS = 300.0  # that a driver waits for its database, before it ends and wants to be launched again
ANSWER_SECONDS = 30.0  # without an answer a connection is given up: a server that is stopped keeps it open for ever
_SILENT_SECONDS = 1.0  # of an outage, of which nobody need hear
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds between two attempts

_TABLES = Tables(insert, prefix="tuner_")
_STUDIES = sa.Table(
    "tuner_studies",
    _TABLES.schema,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
)
_LEASES = Leases(_TABLES.schema)
_ID = sa.select(_STUDIES.c.id).where(_STUDIES.c.name == sa.bindparam("name"))
_MAKING = sa.text("SELECT pg_advisory_xact_lock(hashtext('tuner ledger'))")
_WRITE = sa.select(_STUDIES.c.id).where(_STUDIES.c.id == sa.bindparam("study")).with_for_update()
_COLUMNS = _TABLES.events.c
_FORGET = sa.delete(_TABLES.events).where(_COLUMNS.study == sa.bindparam("study"))
_GONE = sa.delete(_STUDIES).where(_STUDIES.c.id == sa.bindparam("study"))
_ROWS = (
    sa.select(_TABLES.events)
    .where(_COLUMNS.study == sa.bindparam("study"), _COLUMNS.seq.between(sa.bindparam("first"), sa.bindparam("last")))
    .order_by(_COLUMNS.seq)
)

_SETTINGS = {  # libpq's: a database that was cut off is noticed, and lets go of what we held in it
    "application_name": "tuner",
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
_SERVER = {
    "synchronous_commit": "on",  # a commit is on the disk before it is acknowledged, whatever the server's default
    # What a connection holds that was cut off is free again soon, for who comes next.
    "idle_in_transaction_session_timeout": "15s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "lock_timeout": "20s",
}

_REASONS = {  # PostgreSQL's SQLSTATEs, by what they begin with, in a person's words
    "25006": "the ledger may only be read here; check what its user is granted",
    "28": "the user or the password is not accepted ({detail}); check TUNER_LEDGER",
    "3D": "there is no such database ({detail}); make it, or check TUNER_LEDGER",
    "42501": "its user may not do this ({detail}); grant it the tables, or another user in TUNER_LEDGER",
    "53100": "its disk is full ({detail}); make room and launch again: nothing acknowledged is lost",
    "23": "an event breaks the ledger's rules ({detail})",
    "XX": "the database is damaged ({detail}); restore it from a backup",
}
# Connections that end, servers that start or stop, locks that a dead connection still holds: these pass.
_PASSING = ("08", "57P", "25P03", "40", "55P03", "53300")


class Database(Place):
    """The ledger of one study, `key`, in the database of `engine`."""

    tables = _TABLES
    backup = "the database"

    def __init__(self, engine: sa.Engine, study: int, title: str, tell: Callable[[str], None]) -> None:
        self.engine, self.name, self.key = engine, _label(engine.url), {"study": study}
        self._lease = Lease(engine, _LEASES, study, title)
        self._tell = tell
        self._down = False  # has been told

    def begin(self, connection: sa.Connection) -> int:
        # Two statements: only the second sees what was committed while the first waited for its turn.
        connection.execute(_WRITE, self.key)
        self._lease.check(connection)
        return connection.scalar(self.tables.last, self.key) or 0

    def explain(self, error: sa.exc.DBAPIError) -> str:
        return _explain(self.engine.url, error)

    def damaged(self, error: sa.exc.DBAPIError) -> bool:
        return str(getattr(error.orig, "sqlstate", None) or "").startswith("XX")

    def transaction(self) -> Transaction:
        with self.told():
            self._lease.check_known()
        return _RetryingTransaction(self)

    @contextmanager
    def lock(self) -> Iterator[None]:
        with self.told():
            self._lease.take(_WRITE)
        try:
            yield
        finally:
            self._lease.release()

    def holder(self) -> dict[str, Any] | None:
        with self.connect() as connection:
            return self._lease.holder(connection)

    def ask_to_stop(self, who: dict[str, Any]) -> None:
        with self.told(), self.engine.begin() as connection:
            self._lease.ask_to_stop(connection, who)

    def asked_to_stop(self) -> bool:
        return self._lease.asked_to_stop

    def discard(self) -> str:
        with self.told(), self.engine.begin() as connection:
            connection.execute(_WRITE, self.key)
            self._lease.check(connection)
            connection.execute(self.tables.drop_marks, {"after": self.mark_key(0), "end": self.bounds()["end"]})
            connection.execute(self.tables.drop_note, {"name": self.note_key})
            for statement in (_FORGET, _LEASES.deleted, _GONE):
                connection.execute(statement, {**self.key, "of": self.key["study"]})
        return self.name

    def wait(self, error: sa.exc.DBAPIError, attempt: int, since: float) -> None:
        """Until it is worth another attempt. Raises LedgerError where it is not."""
        if not _passes(error):
            raise LedgerError(self.explain(error)) from error
        if time.monotonic() - since > OUTAGE_SECONDS:
            raise LedgerError(
                f"{self.name} has not answered for {OUTAGE_SECONDS:.0f} s ({_detail(self.engine.url, error)}); "
                "launch again when it does: nothing acknowledged is lost"
            ) from error
        if (attempt or time.monotonic() - since > _SILENT_SECONDS) and not self._down:
            self._down = True
            self._tell(f"{self.name} does not answer ({_detail(self.engine.url, error)}), waiting for it")
        time.sleep(min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE))

    def answered(self) -> None:
        self._down = False


class _RetryingTransaction(Transaction):
    """One that begins again where its connection ends: what is there already it does not store twice."""

    def __init__(self, place: Database) -> None:
        super().__init__(place)
        self._database = place
        self._rows: list[Row] = []  # stored, and not yet known to be on the disk

    def _store(self, connection: sa.Connection, rows: Any) -> list[Row]:
        kept = super()._store(connection, rows)
        self._rows += kept
        return kept

    def _run(self, act: Callable[[sa.Connection], T]) -> T:
        since, attempt = time.monotonic(), 0
        while True:
            try:
                done = act(self._begun())
            except sa.exc.DBAPIError as error:
                self._close()
                self._database.wait(error, attempt, since)
                attempt += 1
            else:
                self._database.answered()
                return done

    def _begun(self) -> sa.Connection:
        if self._connection is not None:
            return self._connection
        connection = super()._begun()
        if self._rows:
            try:
                self._restore(connection, self._rows)
            except BaseException:
                self._close()
                raise
        return connection

    def _restore(self, connection: sa.Connection, rows: list[Row]) -> None:
        """Write what an earlier connection has lost, with the numbers that were promised, unless it did arrive."""
        key, first, last = self._place.key, rows[0]["seq"], rows[-1]["seq"]
        found = connection.execute(_ROWS, {"first": first, "last": last, **key}).mappings().all()
        if not found and self._last == first - 1:
            connection.execute(self._place.tables.insert, [row | key for row in rows])
        elif [_content(row) for row in found] != [_content(row) for row in rows]:
            raise LedgerError(f"{self._place.name}: another process wrote this study's events; launch again")
        self._last = max(self._last, last)

    def _close(self) -> None:
        try:
            super()._close()
        except sa.exc.DBAPIError:  # to say goodbye to a database that is gone
            self._connection = None


def _content(row: Any) -> tuple[Any, ...]:
    return (row["seq"], row["time"], row["kind"], row["body"])


def create(folder: Path, address: str, tell: Callable[[str], None]) -> Database:
    """The tables, the study's row and its folder, where they are missing; opened for writing."""
    engine = _engine(address)
    name = _label(engine.url)
    if (folder / LEDGER).exists():
        raise InputError(
            f"study {folder.name} has its ledger in {folder / LEDGER}, and {ADDRESS} names {name}; unset {ADDRESS}, or "
            "give the new study another name (--name)"
        )
    try:
        with engine.begin() as connection:
            connection.execute(_MAKING)
            if not sa.inspect(connection).has_table(_TABLES.meta.name):
                _TABLES.schema.create_all(connection)
                connection.execute(_TABLES.written)
            study = connection.scalar(_ID, {"name": folder.name})
            if study is None:
                _mark(folder, name)
                study = connection.scalar(sa.insert(_STUDIES).values(name=folder.name).returning(_STUDIES.c.id))
                connection.execute(_LEASES.made, {"study": study})
        _mark(folder, name)
    except sa.exc.DBAPIError as error:
        engine.dispose()
        raise LedgerError(_explain(engine.url, error)) from error
    assert study is not None
    return Database(engine, study, folder.name, tell)


def find(folder: Path, address: str, *, read_only: bool, tell: Callable[[str], None]) -> Database | None:
    """The study of that folder's name, None where the database has none."""
    engine = _engine(address, read_only=read_only)
    try:
        with engine.connect() as connection:
            there = sa.inspect(connection).has_table(_STUDIES.name)
            study = connection.scalar(_ID, {"name": folder.name}) if there else None
    except sa.exc.DBAPIError as error:
        engine.dispose()
        raise LedgerError(_explain(engine.url, error)) from error
    if study is None:
        engine.dispose()
        return None
    return Database(engine, study, folder.name, tell)


def studies(address: str) -> list[str]:
    """The names of the studies in a database, sorted."""
    engine = _engine(address, read_only=True)
    try:
        with engine.connect() as connection:
            there = sa.inspect(connection).has_table(_STUDIES.name)
            return sorted(connection.scalars(sa.select(_STUDIES.c.name))) if there else []
    except sa.exc.DBAPIError as error:
        raise LedgerError(_explain(engine.url, error)) from error
    finally:
        engine.dispose()


def version(address: str) -> str:
    """Which database it is, and which PostgreSQL; for a person."""
    engine = _engine(address, read_only=True)
    try:
        with engine.connect() as connection:
            return f"{_label(engine.url)}, version {connection.scalar(sa.text('SHOW server_version'))}"
    except sa.exc.DBAPIError as error:
        raise LedgerError(_explain(engine.url, error)) from error
    finally:
        engine.dispose()


def _mark(folder: Path, name: str) -> None:
    """Make the study's folder, with a word about where its events are."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ELSEWHERE).write_text(f"{name}\n")
    except OSError as error:
        raise unwritable(folder, error) from error


def _engine(address: str, *, read_only: bool = False) -> sa.Engine:
    """Raises InputError where it is no address; its text, which may hold a password, is never shown."""
    scheme = address.partition("://")[0]
    try:
        url = sa.make_url(address)
    except (sa.exc.ArgumentError, ValueError):
        url = None
    if url is None or url.get_backend_name() != "postgresql":
        named = re.fullmatch(r"[a-z][a-z0-9+]{0,30}", scheme) and scheme != address
        got = "one that cannot be read" if url is None and named else f"an address of {scheme}" if named else "none"
        raise InputError(
            f"{ADDRESS}: expected postgresql://user:password@host/database, got {got}; percent-encode what is no "
            "letter or digit in the password"
        )
    server = _SERVER | ({"default_transaction_read_only": "on"} if read_only else {})
    options = " ".join([*_listed(url.query.get("options")), *(f"-c {key}={value}" for key, value in server.items())])
    arguments = {key: value for key, value in _SETTINGS.items() if key not in url.query} | {"options": options}
    url = url.set(drivername="postgresql+psycopg").difference_update_query(["options"])
    try:
        engine = sa.create_engine(url, pool_pre_ping=True, connect_args=arguments, hide_parameters=True)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{ADDRESS} names a PostgreSQL, which needs {error.name}: pip install 'cohort-tuner[postgresql]'"
        ) from None
    sa.event.listen(engine, "connect", _bound)
    return engine


def _bound(connection: Any, _record: object) -> None:
    """Make a psycopg connection wait no longer than ANSWER_SECONDS for an answer; then it is closed."""
    wait = connection.wait

    def patiently(*arguments: Any, **words: Any) -> Any:
        words = {"timeout": ANSWER_SECONDS, **words}
        since = time.monotonic()
        try:
            return wait(*arguments, **words)
        except connection.OperationalError as error:
            late = words["timeout"] is not None and time.monotonic() - since >= words["timeout"]
            if not late or error.sqlstate is not None or connection.closed:  # the server has answered, or is gone
                raise
            connection.pgconn.finish()
            raise connection.OperationalError(f"no answer in {ANSWER_SECONDS:.0f} s") from None

    connection.wait = patiently


def _listed(value: str | tuple[str, ...] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _label(url: sa.URL) -> str:
    """Host and database, and nothing else of the address."""
    host = url.host or ",".join(_listed(url.query.get("host"))) or os.environ.get("PGHOST") or "this machine"
    port = f":{url.port}" if url.port else ""
    return f"PostgreSQL database {url.database or url.username or ''} at {host}{port}"


def _detail(url: sa.URL, error: sa.exc.DBAPIError) -> str:
    text = first_line(error.orig or error)
    return text.replace(str(url.password), "…") if url.password else text


def _explain(url: sa.URL, error: sa.exc.DBAPIError) -> str:
    state: str = getattr(error.orig, "sqlstate", None) or ""
    detail = _detail(url, error)
    reason = next((text for begin, text in _REASONS.items() if state.startswith(begin)), None)
    if reason is None:
        reason = "it does not answer ({detail}); is it up, and is TUNER_LEDGER right?" if _passes(error) else "{detail}"
    return f"{_label(url)}: {reason.format(detail=detail)}"


def _passes(error: sa.exc.DBAPIError) -> bool:
    """Whether another attempt may succeed."""
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError) or error.connection_invalidated
    return error.connection_invalidated or state.startswith(_PASSING)
