"""Digests of stored events, each chained from the one before it, and what they say when a ledger is read again.

Every transaction stores one more row, a *mark*, with the digests of its events. So a ledger tells that it is whole:
which events are missing, which were changed, and from where on it can say so (one that is older than digests has none
for its first events). Pure: rows in, findings out. Must never know where rows come from, nor what an event means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

SIZE = 16  # characters of a digest: 64 bits, against accidents and never against malice
_SHOWN = 5  # findings and trials that are named; the rest is counted


def digest(row: Mapping[str, Any], before: str) -> str:
    """The digest of an event's row, chained from `before`, that of the event before it ("" where there is none)."""
    text = (
        f"{before} {row['seq']} {row['time']!r} {row['kind']} {row['trial']} {row['cohort']} {row['epoch']} "
        f"{row['body']}"
    )
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=SIZE // 2).hexdigest()


@dataclass(frozen=True)
class Mark:
    """The digests of the events `first` to `last`, stored with them."""

    last: int
    digests: str

    @property
    def first(self) -> int:
        return self.last + 1 - len(self.digests) // SIZE

    def of(self, seq: int) -> str:
        """The digest of an event; "" where the mark does not cover it."""
        begin = (seq - self.first) * SIZE
        return self.digests[begin : begin + SIZE] if self.first <= seq <= self.last else ""


@dataclass(frozen=True)
class Finding:
    """What is wrong with a ledger. `id` tells damage that stays, and is accepted once; "" where going on mends it."""

    text: str
    id: str = ""


class Audit:
    """One look at all events of a ledger, page by page, and what it has found."""

    def __init__(self, head: tuple[int, str] | None, newest: Mark | None) -> None:
        """`head` (seq and digest) and the newest mark, both read before the first page: a driver may write on."""
        self.findings: list[Finding] = []
        self.fatal = False  # the events contradict one another: nobody can go on from them
        self.uncovered = 0  # events without a digest
        self.holes: Sequence[str] = ()  # what the study lacks without the events that are missing
        self._head, self._newest = head, newest
        self._seq = 0
        self._tip = ""
        self._mark = Mark(0, "")
        self._gaps: list[tuple[int, int]] = []
        self._changed: list[tuple[int, str, str]] = []  # seq, digest, what it is

    def page(self, rows: Sequence[Mapping[str, Any]], marks: Iterable[Mark]) -> None:
        """The next rows, and the marks of all events up to the last of them, from the first after the page before."""
        coming = iter(marks)
        for row in rows:
            seq: int = row["seq"]
            if seq > self._seq + 1:
                self._gaps.append((self._seq + 1, seq - 1))
            self._seq = seq
            while self._mark.last < seq and (mark := next(coming, None)) is not None:
                if mark.last > self._mark.last:  # one that reaches into this page has come with the last one
                    self._tip, self._mark = self._mark.digests[-SIZE:] or self._tip, mark
            stored = self._mark.of(seq)
            if not stored:
                self.uncovered += 1
                continue
            found = digest(row, self._mark.of(seq - 1) or self._tip)
            if found != stored:
                self._changed.append((seq, found, _named(row)))
            if self._head is not None and self._head[0] == seq and self._head[1] != stored:
                self._note(f"event {seq} is another than the one that ledger.head knows")

    def close(self) -> None:
        """After the last page: what is missing at the end, and all of it in words."""
        self.findings = [
            *(Finding(f"{_events(first, last)} missing", f"missing {first}-{last}") for first, last in self._gaps),
            *self._changes(),
            *self.findings,
        ]
        known = max(self._newest.last if self._newest else 0, self._head[0] if self._head else 0)
        if known > self._seq:
            there = f"the last one that is there is event {self._seq}" if self._seq else "there are none"
            self._note(f"{_events(self._seq + 1, known)} missing: {there}")

    def unreadable(self, text: str) -> None:
        """An event that cannot be understood: what comes after it cannot be either."""
        self.fatal = True
        self._note(text)

    def unfinished(self, state: str, trials: Sequence[int]) -> None:
        """Trials of a study that says that it has ended, and that have not."""
        named = _listed([f"{number}" for number in trials])
        which = f"trial {named} has" if len(trials) == 1 else f"trials {named} have"
        self._note(f"the study says that it is {state}, but {which} not ended")

    def accept(self, known: set[str]) -> None:
        """Leave out what a person has accepted."""
        self.findings = [finding for finding in self.findings if finding.id not in known]

    def lines(self) -> list[str]:
        """The findings for a person: of single events the first, of the study all."""
        texts = [finding.text for finding in self.findings if finding.id]
        more = [f"and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []
        holes = [f"without them: {_listed(self.holes)}"] if self.holes and texts else []
        return [*texts[:_SHOWN], *more, *holes, *(finding.text for finding in self.findings if not finding.id)]

    @property
    def gaps(self) -> bool:
        """Whether events are missing between others."""
        return bool(self._gaps)

    def _note(self, text: str) -> None:
        self.findings.append(Finding(text))

    def _changes(self) -> Iterable[Finding]:
        """Neighbours in one."""
        runs: list[list[tuple[int, str, str]]] = []
        for change in self._changed:
            if runs and runs[-1][-1][0] == change[0] - 1:
                runs[-1].append(change)
            else:
                runs.append([change])
        for run in runs:
            (first, _, name), (last, found, _) = run[0], run[-1]
            alone = f"event {first} ({name}) is not as it was stored"
            several = f"events {first} to {last} are not as they were stored"
            yield Finding(alone if first == last else several, f"changed {first}-{last} {found}")


def _events(first: int, last: int) -> str:
    return f"event {first} is" if first == last else f"events {first} to {last} are"


def _named(row: Mapping[str, Any]) -> str:
    of = "" if row["trial"] is None else f" of trial {row['trial']}"
    return f"{row['kind']}{of}" + ("" if row["epoch"] is None else f", epoch {row['epoch']}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
