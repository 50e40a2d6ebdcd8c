"""The ledger's tables, and how events become rows: what is the same in every database.

Knows SQL that all of them speak. Must never know where a database is, how it is reached or what its errors mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from tuner.events import TERMINAL, Asked, Created, Event, Reported, read

FORMAT = 1  # of the tables; raised when an older Tuner could no longer read what is written

Row = dict[str, Any]

_NO_COLUMNS = {"trial": None, "cohort": None, "epoch": None}
_UNIQUE: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {  # columns and kinds of event: the first one wins
    "one_created": (["kind"], [Created.kind]),
    "one_asked": (["trial"], [Asked.kind]),
    "one_report": (["trial", "epoch"], [Reported.kind]),
    "one_end": (["trial"], sorted(event.kind for event in TERMINAL)),
}
_JSON = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


class Tables:
    """The tables of one kind of database, and the statements about a study's events in them.

    Where one database holds the events of many studies (`prefix` keeps their tables apart from those of others), each
    event says whose it is, and every statement takes the `study` beside its own parameters.
    """

    def __init__(self, insert: Callable[[sa.Table], Any], prefix: str | None = None) -> None:
        """`insert` is the dialect's own, which can leave out what is there already."""
        many, prefix = prefix is not None, prefix or ""
        self.schema = sa.MetaData()
        self.meta = sa.Table(
            f"{prefix}meta",
            self.schema,
            sa.Column("key", sa.Text, primary_key=True),
            sa.Column("value", sa.Text, nullable=False),
        )
        whose = [sa.Column("study", sa.Integer, primary_key=True, autoincrement=False)] if many else []
        seq = sa.BigInteger().with_variant(sa.Integer, "sqlite")
        self.events = sa.Table(
            f"{prefix}events",
            self.schema,
            *whose,
            sa.Column("seq", seq, primary_key=True, autoincrement=False),
            sa.Column("time", sa.Double, nullable=False),
            sa.Column("kind", sa.Text, nullable=False),
            sa.Column("trial", sa.Integer),
            sa.Column("cohort", sa.Integer),
            sa.Column("epoch", sa.Integer),
            sa.Column("body", sa.Text, nullable=False),
        )
        columns = self.events.c
        key = [columns[column.name] for column in whose]
        for name, (unique, kinds) in _UNIQUE.items():
            where = columns.kind.in_([sa.literal_column(f"'{kind}'") for kind in kinds])
            parts = [*key, *(columns[part] for part in unique)]
            dialect = "postgresql_where" if many else "sqlite_where"  # to name one is to import it
            partly: dict[str, Any] = {dialect: where}
            sa.Index(f"{prefix}{name}", *parts, unique=True, **partly)
        mine = [column == sa.bindparam(column.name) for column in key]
        told = [column for column in columns if column.name != "study"]
        self.insert = insert(self.events).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
        self.last = sa.select(sa.func.coalesce(sa.func.max(columns.seq), 0)).where(*mine)
        self.since = sa.select(columns.seq).where(*mine, columns.seq >= sa.bindparam("first")).order_by(columns.seq)
        # inside its own transaction alone
        self.take_back = sa.delete(self.events).where(*mine, columns.seq >= sa.bindparam("first"))
        after = sa.select(*told).where(*mine, columns.seq > sa.bindparam("after"))
        self.read = after.order_by(columns.seq).limit(sa.bindparam("size"))
        self.format = sa.select(self.meta.c.value).where(self.meta.c.key == "format")
        self.written = sa.insert(self.meta).values(key="format", value=str(FORMAT))
        self._set_up_marks(insert)

    def _set_up_marks(self, insert: Callable[[sa.Table], Any]) -> None:
        """The statements about digests. Their rows are in `meta`, which older Tuners read one row of.

        `begin` and `end` bound the keys of one study's marks; `after` and `upto` are keys between them.
        """
        key, value = self.meta.c.key, self.meta.c.value
        end = sa.bindparam("end", type_=sa.Text)
        covering = sa.select(sa.func.min(key)).where(key >= sa.bindparam("upto"), key <= end).scalar_subquery()
        self.mark = insert(self.meta).on_conflict_do_nothing()
        self.marks = sa.select(key, value).where(key > sa.bindparam("after"), key <= sa.func.coalesce(covering, end))
        self.marks = self.marks.order_by(key)
        newest = sa.select(key, value).where(key > sa.bindparam("begin"), key <= end)
        self.newest_mark = newest.order_by(key.desc()).limit(1)
        self.drop_marks = sa.delete(self.meta).where(key > sa.bindparam("after"), key <= end)
        self.noted = sa.select(value).where(key == sa.bindparam("name"))
        self.drop_note = sa.delete(self.meta).where(key == sa.bindparam("name"))

    def store(self, connection: sa.Connection, rows: Sequence[Row], key: Row) -> Sequence[int]:
        """Insert the rows (`seq` without gaps) that break no unique index; their places in `rows`."""
        rows = [row | key for row in rows]
        first = rows[0]["seq"]
        if connection.execute(self.insert, rows).rowcount == len(rows):
            return range(len(rows))
        # Some were there already. Once more without them, so that seq stays without gaps and depends on what was
        # stored alone, not on how it came.
        kept = [seq - first for seq in connection.scalars(self.since, {"first": first, **key})]
        connection.execute(self.take_back, {"first": first, **key})
        if kept:
            connection.execute(self.insert, [rows[place] | {"seq": first + i} for i, place in enumerate(kept)])
        return kept


def row(event: Event, now: float) -> Row:
    """The event as the tables keep it, `seq` and study left out.

    Raises ValueError where the body is no JSON.
    """
    columns = {name: getattr(event, name) for name in event.columns}
    try:
        body = _JSON.encode(event.to_body())
    except (TypeError, ValueError) as error:
        place = ", ".join(f"{name} {number}" for name, number in columns.items())
        raise ValueError(f"event {event.kind} of {place or 'the study'}: the body is no JSON: {error}") from error
    return {"time": now, "kind": event.kind, **_NO_COLUMNS, **columns, "body": body}


def event(row: Any) -> Event:
    """The event of a row, a mapping. Raises ValueError or TypeError where it cannot be read."""
    body = json.loads(row["body"])
    if not isinstance(body, dict):
        raise TypeError(f"expected a body that is an object, got {type(body).__name__}")
    if not isinstance(row["time"], float | int):
        raise TypeError(f"expected a time in seconds, got {row['time']!r}")
    return read(row["kind"], body, row, row["seq"], row["time"])
