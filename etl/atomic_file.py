"""A file that is there whole or not at all."""

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
    """A file to write, which takes its name once it is whole; what had the name before stays until then.

    What is no file, such as /dev/stdout, is written as it is.

    Args:
        path: its name.
        mode: its rights; else those of the file that it replaces, or those that any new file gets.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    path = path.resolve()  # where the name is a link, the file is replaced and not the link
    # In the same folder, or renaming would copy.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("xb") as file:
            if mode is None and path.exists():
                mode = stat.S_IMODE(path.stat().st_mode)  # what nobody could read stays so
            if mode is not None:
                draft.chmod(mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
