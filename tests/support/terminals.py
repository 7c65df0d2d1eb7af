"""A person at a terminal: a real pseudo-terminal, nothing is simulated."""

from __future__ import annotations

import contextlib
import os
import re
from time import monotonic

import pexpect

from support.operators import PATIENCE
from support.servers import do_without

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]")


def require_terminals():
    """Skip a test where the machine has no pseudo-terminals; in CI it fails."""
    try:
        for descriptor in os.openpty():
            os.close(descriptor)
    except OSError as error:
        do_without(f"no terminals here ({error}): mount devpts on /dev/pts")


class Terminal:
    """A terminal on which one command runs."""

    def __init__(self, operator, words, *, width, **environment):
        require_terminals()
        shown = {**operator.whole_environment(**environment)}
        del shown["COLUMNS"]
        self.child = pexpect.spawn(
            words[0],
            list(words[1:]),
            env=shown,
            cwd=str(operator.home),
            dimensions=(40, width),
            encoding="utf-8",
            codec_errors="replace",  # Ctrl-C discards what is not shown yet, even half a character
            timeout=PATIENCE,
        )
        self.raw = ""

    def wait_for(self, words):
        self.child.expect(words)
        self.raw += self.child.before + self.child.after

    def watch_until(self, condition, patience):
        """Read all the time, as a terminal does: a process whose output is not read stands still."""
        end = monotonic() + patience
        while not condition():
            assert monotonic() < end, "it did not happen in time"
            with contextlib.suppress(pexpect.TIMEOUT):
                self.raw += self.child.read_nonblocking(10_000, timeout=0.1)

    def finish(self):
        self.child.expect(pexpect.EOF)
        self.raw += self.child.before
        self.child.close()
        return self

    @property
    def code(self):
        return self.child.exitstatus if self.child.signalstatus is None else -self.child.signalstatus

    @property
    def text(self):
        """All that was written, without the control codes; a bar that was painted over is there each time."""
        return CONTROL.sub("", self.raw)

    @property
    def lines(self):
        return [line.rstrip() for line in re.split(r"[\r\n]+", self.text)]
