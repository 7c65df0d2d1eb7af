"""The manual pages: `make docs` writes them from the commands themselves and from the tables of README.md.

They are kept in the repository, so that a wheel can carry them; a test holds them to the commands.

click-man would not do: it sees no command that is loaded when it is called, and leaves signs that troff takes
for its own as they are.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import fill

import click

from etl.cli.main import cli

FOLDER = Path(__file__).parent / "man1"
README = Path(__file__).parent.parent / "README.md"
# What troff takes for a sign of its own, or shows as a more beautiful one that nobody can paste.
SIGNS = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", "…": "..."}
SENTENCE = re.compile(r"(?<=[.?!:;])\s+(?=[A-Z`])")


def pages() -> dict[str, str]:
    """All pages, by the names of their files."""
    top = click.Context(
        cli, info_name="cdr-sync", help_option_names=cli.context_settings["help_option_names"]
    )
    return {f"{name_of(context)}.1": page(context) for context in contexts(top)}


def contexts(context: click.Context) -> Iterator[click.Context]:
    """A command and all those below it, each with the words that it is called by."""
    yield context
    for command in commands_of(context):
        yield from contexts(click.Context(command, info_name=command.name, parent=context))


def commands_of(context: click.Context) -> list[click.Command]:
    """The commands of a group; none of a command."""
    group = context.command
    if not isinstance(group, click.Group):
        return []
    found = [group.get_command(context, name) for name in group.list_commands(context)]
    return [command for command in found if command is not None and not command.hidden]


def name_of(context: click.Context) -> str:
    """The name of a command's page."""
    return context.command_path.replace(" ", "-")


def page(context: click.Context) -> str:
    """One page, in the macros of man(7)."""
    command = context.command
    help_text = [" ".join(part.split()) for part in inspect.cleandoc(command.help or "").split("\n\n")]
    usage = ["[OPTIONS]", *(piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]")]
    parts = [
        f'.TH {name_of(context).upper()} 1 "" cdr\\-sync "cdr\\-sync manual"',
        ".SH NAME",
        f"{plain(name_of(context))} \\- {plain(summary(command).rstrip('.').replace('`', ''))}",
        ".SH SYNOPSIS",
        f"\\fB{plain(context.command_path)}\\fR {plain(' '.join(usage))}",
        ".SH DESCRIPTION",
        "\n.PP\n".join(prose(part) for part in help_text),
        section("OPTIONS", options(context)),
        section(
            "COMMANDS", ((f"\\fB{plain(one.name or '')}\\fR", summary(one)) for one in commands_of(context))
        ),
    ]
    if context.parent is None:
        parts.append(section("EXIT STATUS", table("Exit codes", 0, 1)))
        parts.append(section("ENVIRONMENT", table("Settings", 0, 2, 1)))
    parts += [".SH SEE ALSO", see_also(context)]
    return "\n".join(filter(None, parts)) + "\n"


def options(context: click.Context) -> Iterator[tuple[str, str]]:
    """Every option as it is typed, with its help; --help included."""
    for option in context.command.get_params(context):
        if isinstance(option, click.Option) and not option.hidden:
            # A command remembers the names that its --help had when somebody first asked for them.
            is_help = option is context.command.get_help_option(context)
            opts = context.help_option_names if is_help else (*option.opts, *option.secondary_opts)
            names = ", ".join(f"\\fB{plain(name)}\\fR" for name in opts)
            value = (
                "" if option.is_flag or option.count else f" \\fI{plain(option.make_metavar(context))}\\fR"
            )
            default = f" [default: {option.default}]" if option.show_default else ""
            yield names + value, f"{option.help}{default}"


def table(heading: str, name: int, words: int, default: int | None = None) -> Iterator[tuple[str, str]]:
    """The rows of a table of README.md: the column of names, that of words, and that of defaults."""
    lines = (
        README.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0].splitlines()
    )
    for line in [line for line in lines if line.startswith("|")][2:]:
        cells = [re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", cell.strip()) for cell in line.strip("|").split("|")]
        more = "" if default is None else f" [default: {cells[default]}]"
        yield prose(cells[name]), cells[words] + more


def summary(command: click.Command) -> str:
    """The first sentence of a command's help."""
    return SENTENCE.split(" ".join((command.help or "").split()))[0]


def see_also(context: click.Context) -> str:
    """The pages above and below."""
    names = [name_of(context.parent)] if context.parent else []
    names += [f"{name_of(context)}-{command.name}" for command in commands_of(context)]
    return "\n".join(f".BR {plain(name)} (1){'' if name == names[-1] else ','}" for name in names)


def section(heading: str, entries: Iterable[tuple[str, str]]) -> str:
    """A section of names, each with what it is; nothing where there are none."""
    lines = [f".TP\n{name}\n{prose(text)}" for name, text in entries]
    return "\n".join([f".SH {heading}", *lines]) if lines else ""


def prose(text: str) -> str:
    """Sentences, each on a line of its own; what stands between backquotes is bold."""
    parts = re.split(r"`([^`]+)`", "\n".join(SENTENCE.split(text)))
    marked = "".join(f"\\fB{plain(part)}\\fR" if n % 2 else plain(part) for n, part in enumerate(parts))
    lines = (fill(line, 78, break_long_words=False, break_on_hyphens=False) for line in marked.splitlines())
    return re.sub(r"^(?=[.])", r"\\&", "\n".join(lines), flags=re.MULTILINE)


def plain(text: str) -> str:
    """Text as it is to be read, whatever signs are in it."""
    return "".join(SIGNS.get(sign) or (sign if sign.isascii() else f"\\[u{ord(sign):04X}]") for sign in text)


def main() -> None:
    """Write all pages, and remove those of commands that are no more."""
    written = pages()
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.1"):
        old.unlink()
    for name, text in written.items():
        (FOLDER / name).write_text(text, encoding="ascii")
    sys.stdout.write(f"{len(written)} pages in {FOLDER}\n")


if __name__ == "__main__":
    main()
