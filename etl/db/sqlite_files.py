"""A SQLite file: making it, and what speaks against where it lies or who shares it."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, func, select

from etl.db.connection import reading, sqlite_path
from etl.db.tables import sync_runs
from etl.errors import DatabaseUnavailableError

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = ("9p", "afs", "ceph", "cifs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs")
_NETWORK_FUSE = ("fuse.glusterfs", "fuse.s3fs", "fuse.sshfs")
_RUNS = 1_000  # the latest ones, in which other hosts are looked for


def create_sqlite_file(url_text: str) -> None:
    """Make the folder of a SQLite file that does not exist yet, for its owner alone."""
    path = sqlite_path(url_text)
    if path is not None and not path.exists():
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
        except OSError as error:
            raise DatabaseUnavailableError(f"{path} cannot be made: {error.strerror}") from error


def sqlite_dangers(engine: Engine, path: Path) -> list[str]:
    """Sentences for a person: why this file is not safe where it is, or as it is used."""
    dangers = []
    kind = file_system_of(path)
    if kind in (*_NETWORK, *_NETWORK_FUSE):
        dangers.append(
            f"{path} lies on a network file system ({kind}), where SQLite's locks cannot be relied on: "
            "move it to a local disk, or use PostgreSQL or MariaDB."
        )
    with reading(engine) as connection:
        newest = connection.scalar(select(func.max(sync_runs.c.id))) or 0
        hosts = connection.scalars(
            select(sync_runs.c.host)
            .where(sync_runs.c.id > newest - _RUNS)
            .distinct()
            .order_by(sync_runs.c.host)
        ).all()
    if len(hosts) > 1:
        dangers.append(
            f"Several machines ({', '.join(hosts[:5])}) use the SQLite file {path}, whose locks hold on one "
            "machine only: use PostgreSQL or MariaDB."
        )
    return dangers


def file_system_of(path: Path, mounts: Path | None = None) -> str | None:
    """The kind of file system that a path is on; None where the system does not tell."""
    try:
        lines = (mounts or _MOUNTS).read_text().splitlines()
    except OSError:
        return None
    best, kind = -1, None
    place = path.resolve()
    for line in lines:
        fields, _, rest = line.partition(" - ")
        mounted_at = Path(fields.split()[4].encode().decode("unicode_escape"))
        if place.is_relative_to(mounted_at) and len(mounted_at.parts) >= best:
            best, kind = len(mounted_at.parts), rest.split()[0]
    return kind
