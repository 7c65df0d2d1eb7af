"""Files that are written completely or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: Path, *, mode: int | None = None) -> Iterator[BinaryIO]:
    """A file to write, which gets its name when it is complete. Until then, an existing file stays.

    A path that is not a regular file, such as /dev/stdout, is written directly.

    Args:
        path: the name of the file.
        mode: its permissions; by default those of the file that it replaces, or those of any new file.

    Raises:
        OSError: the file cannot be written.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    path = path.resolve()  # replace the file that a link points to, not the link
    # In the same folder, because a rename across file systems is not atomic.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("xb") as file:
            if mode is None and path.exists():
                mode = stat.S_IMODE(path.stat().st_mode)  # a private file stays private
            if mode is not None:
                draft.chmod(mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
