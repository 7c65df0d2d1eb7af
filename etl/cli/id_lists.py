"""Request IDs as somebody gives them to a command: as arguments, from a file, from a pipe."""

from __future__ import annotations

import itertools
import os
import shlex
import sys
from collections.abc import Iterator, Sequence

import click

from etl.errors import UsageError
from etl.request_lists import Listed, check_request_id, read_request_ids

LOT = 500  # no more than what is changed in one transaction: `etl.sync.replaying.PAGE`
_SHOWN = 20


class IdList:
    """The IDs of a command, read as a stream; what cannot be an ID is told on stderr and counted."""

    def __init__(self, request_ids: Sequence[str], from_file: str | None) -> None:
        _refuse_files(request_ids)
        self.invalid = 0
        self.valid = 0
        self._entries = itertools.chain(
            (("argument", check_request_id(n, text.strip())) for n, text in enumerate(request_ids, start=1)),
            (("line", entry) for entry in _from_file(from_file)),
        )

    def lots(self) -> Iterator[list[str]]:
        """The valid IDs, in lots; the first is read at once, so that a wrong file is told before all else."""
        lots = self._lots()
        return itertools.chain([next(lots, [])], lots)

    def require_any(self) -> None:
        """Refuse, at its end, a list that held no ID at all; each entry was told by then."""
        if self.invalid and not self.valid:
            raise UsageError("Nothing of what is listed is a request ID")

    def _lots(self) -> Iterator[list[str]]:
        while entries := list(itertools.islice(self._entries, LOT)):
            yield [entry.request_id for place, entry in entries if self._is_valid(place, entry)]
        if self.invalid > _SHOWN:
            click.echo(f"… and {self.invalid - _SHOWN:,} more", err=True)

    def _is_valid(self, place: str, entry: Listed) -> bool:
        if entry.problem is None:
            self.valid += 1
            return True
        self.invalid += 1
        if self.invalid <= _SHOWN:
            click.echo(f"{place} {entry.line}: {entry.problem}", err=True)
        return False


def _refuse_files(arguments: Sequence[str]) -> None:
    """Refuse the name of a file in the place of an ID: a file is read where it is said to be one."""
    for text in arguments:
        # Pathlib's `is_file` fails where a name is longer than that of a file can be.
        if text == "-" or (("." in text or "/" in text) and os.path.isfile(text)):  # noqa: PTH113
            raise UsageError(f"{text!r} is a file and no request ID: write --from-file {shlex.quote(text)}")


def distinct(lots: Iterator[list[str]]) -> Iterator[list[str]]:
    """The same IDs, each once: for a look, which leaves no mark by which to know them again."""
    seen: set[int] = set()
    for lot in lots:
        fresh = {hash(request_id): request_id for request_id in lot if hash(request_id) not in seen}
        seen.update(fresh)
        yield list(fresh.values())


def _from_file(name: str | None) -> Iterator[Listed]:
    if name is None:
        return
    if name == "-":
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]  # a text stream
        yield from read_request_ids(sys.stdin)
        return
    try:
        with open(name, encoding="utf-8", errors="replace", newline=None) as file:  # noqa: PTH123 (a name is enough)
            yield from read_request_ids(file)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from error
