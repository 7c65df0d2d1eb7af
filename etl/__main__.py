"""Where `cdr-sync` and `python -m etl` begin."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C is quiet from the very first moment, imports included."""
    try:
        from etl.cli.main import main as run  # noqa: PLC0415 (so that it happens in here)

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
