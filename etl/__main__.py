"""The entry point of `cdr-sync` and `python -m etl`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Ctrl-C ends it quietly from the first moment, during imports too."""
    try:
        from etl.cli.main import main as run  # noqa: PLC0415 (imported inside the try block)

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
