"""What Grafana does with a panel's SQL before PostgreSQL sees it, and the panels of deploy/grafana."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from support.tools import DEPLOY

FOLDER = DEPLOY / "grafana"
DASHBOARDS = {
    path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "dashboards").glob("*.json"))
}
_SECONDS = {"m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Panel:
    """A panel with its one query."""

    dashboard: str
    panel: dict

    @property
    def sql(self):
        (target,) = self.panel["targets"]
        return target["rawSql"]

    def __str__(self):
        return f"{self.dashboard}: {self.panel['title']}"


PANELS = [
    Panel(name, panel)
    for name, document in DASHBOARDS.items()
    for panel in document["panels"]
    if panel["type"] != "row"
]


@dataclass(frozen=True)
class Look:
    """What a user has chosen at the top of a dashboard."""

    since: datetime
    until: datetime
    accounts: tuple[str, ...] = ("default",)
    bucket: str = "1d"

    def sql(self, text):
        """Fill in the variables, which the browser does, and then the macros, as the server does."""
        quoted = ",".join("'{}'".format(account.replace("'", "''")) for account in self.accounts)
        text = text.replace("${account:sqlstring}", quoted).replace("${bucket}", self.bucket)
        return re.sub(r"\$([_a-zA-Z0-9]+)\(([^)]*)\)", self._macro, text)

    def _macro(self, match):
        name, arguments = match[1], [word.strip() for word in match[2].split(",")]
        since, until = (
            f"'{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}'" for instant in (self.since, self.until)
        )
        match name, arguments:
            case "__timeFilter", [column]:
                return f"{column} BETWEEN {since} AND {until}"
            case "__timeFrom", _:
                return since
            case "__timeTo", _:
                return until
            case "__timeGroupAlias", [column, width, *_]:
                number, unit = re.fullmatch(r"'(\d+)([mhd])'", width).groups()
                seconds = int(number) * _SECONDS[unit]
                return f'floor(extract(epoch from {column})/{seconds})*{seconds} AS "time"'
        raise AssertionError(f"unknown macro {match[0]}")
