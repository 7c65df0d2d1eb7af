"""A file that is there whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from etl.errors import UsageError


@contextmanager
def whole_file(name: str) -> Iterator[BinaryIO]:
    """A file to write, which takes its name once it is whole; what had the name before stays until then.

    Raises:
        UsageError: there can be no such file; the message says why.
    """
    path = Path(name).resolve()  # where the name is a link, the file is replaced and not the link
    if path.exists() and not path.is_file():
        raise UsageError(f"{name} is no file: leave out --output, and use > or | of the shell")
    # In the same folder, or renaming would copy.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        file = draft.open("xb")
    except OSError as error:
        raise UsageError(f"{name} cannot be written: {error.strerror}") from error
    try:
        with file:
            if path.exists():
                draft.chmod(stat.S_IMODE(path.stat().st_mode))  # what nobody could read stays so
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
