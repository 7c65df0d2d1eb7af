"""The manual pages: `make docs` writes them from the commands, examples.toml and the tables of README.md.

Docutils writes the troff. The pages are kept in the repository, and a wheel ships them; a test compares them
with the commands. (click-man finds no command that is imported only when it is called, and does not escape
what troff would read as its own.)
"""

from __future__ import annotations

import inspect
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
from docutils import nodes
from docutils.core import publish_from_doctree
from docutils.utils import new_document

from etl.cli.main import cli

HERE = Path(__file__).parent
FOLDER = HERE / "man1"
README = HERE.parent / "README.md"
EXAMPLES: dict[str, dict[str, str]] = tomllib.loads((HERE / "examples.toml").read_text(encoding="utf-8"))


def pages() -> dict[str, str]:
    """All pages, by the names of their files."""
    names = cli.context_settings["help_option_names"]
    top = click.Context(cli, info_name="cdr-sync", help_option_names=names)
    return {f"{name_of(context)}.1": page(context) for context in contexts(top)}


def contexts(context: click.Context) -> Iterator[click.Context]:
    """A command and all below it, each with the words that call it."""
    yield context
    for command in commands_of(context):
        yield from contexts(click.Context(command, info_name=command.name, parent=context))


def commands_of(context: click.Context) -> list[click.Command]:
    """The commands of a group; empty for a command."""
    group = context.command
    if not isinstance(group, click.Group):
        return []
    found = [group.get_command(context, name) for name in group.list_commands(context)]
    return [command for command in found if command is not None and not command.hidden]


def name_of(context: click.Context) -> str:
    """The name of a command's page."""
    return context.command_path.replace(" ", "-")


def page(context: click.Context) -> str:
    """One page as troff."""
    command, name = context.command, name_of(context)
    paragraphs = [" ".join(part.split()) for part in inspect.cleandoc(command.help or "").split("\n\n")]
    usage = ["[OPTIONS]", *(piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]")]
    synopsis = nodes.paragraph(
        "", "", nodes.strong("", context.command_path), nodes.Text(f" {' '.join(usage)}")
    )
    commands = [(command.name or "", summary(command)) for command in commands_of(context)]
    names = [name_of(context.parent)] if context.parent else []
    names += [f"{name}-{word}" for word, _ in commands]
    document = new_document(name)
    document += [nodes.title("", name), nodes.subtitle("", summary(command).rstrip(".").replace("`", ""))]
    document += nodes.docinfo("", field("manual section", "1"), field("manual group", "cdr-sync manual"))
    document += [
        section("SYNOPSIS", synopsis),
        section("DESCRIPTION", *(paragraph(text) for text in paragraphs)),
        section("OPTIONS", definitions(options(context))),
    ]
    if commands:
        document += section("COMMANDS", definitions(commands))
    document += section("EXAMPLES", *examples(name))
    if context.parent is None:
        document += section("EXIT STATUS", definitions(table("Exit codes", 0, 1)))
        document += section("ENVIRONMENT", definitions(table("Settings", 0, 2, 1)))
    document += section("SEE ALSO", nodes.paragraph("", ", ".join(f"{one}(1)" for one in names)))
    return str(
        publish_from_doctree(document, writer="manpage", settings_overrides={"output_encoding": "unicode"})
    )


def summary(command: click.Command) -> str:
    """The first paragraph of a command's help."""
    return " ".join((command.help or "").split("\n\n")[0].split())


def options(context: click.Context) -> Iterator[tuple[str, str]]:
    """Every option as it is typed, with its help; --help included."""
    for option in context.command.get_params(context):
        if isinstance(option, click.Option) and not option.hidden:
            # A command keeps the names that its --help had when it was first asked for.
            is_help = option is context.command.get_help_option(context)
            opts = context.help_option_names if is_help else (*option.opts, *option.secondary_opts)
            value = "" if option.is_flag or option.count else f" {option.make_metavar(context)}"
            default = f" [default: {option.default}]" if option.show_default else ""
            yield f"{', '.join(opts)}{value}", f"{option.help}{default}"


def examples(name: str) -> Iterator[nodes.Element]:
    """What a command is for, and below it what to type."""
    for purpose, lines in EXAMPLES[name].items():
        yield nodes.paragraph("", f"{purpose}:")
        yield nodes.literal_block("", "\n".join(f"$ {line}" for line in lines.strip().splitlines()))


def table(heading: str, name: int, words: int, default: int | None = None) -> Iterator[tuple[str, str]]:
    """The rows of a table of README.md: its columns of names, of words, and of defaults."""
    text = README.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    for line in [line for line in text.splitlines() if line.startswith("|")][2:]:
        cells = [re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", cell.strip()) for cell in line.strip("|").split("|")]
        more = "" if default is None else f" [default: {cells[default]}]"
        yield cells[name].replace("`", ""), cells[words] + more


def field(name: str, body: str) -> nodes.field:
    """What the writer puts into a page's head and foot."""
    return nodes.field("", nodes.field_name("", name), nodes.field_body("", nodes.paragraph("", body)))


def section(heading: str, *parts: nodes.Element) -> nodes.section:
    """A section with its heading."""
    return nodes.section("", nodes.title("", heading), *parts)


def definitions(entries: Iterable[tuple[str, str]]) -> nodes.definition_list:
    """Names, each with what it is."""
    return nodes.definition_list(
        "",
        *(
            nodes.definition_list_item("", nodes.term("", name), nodes.definition("", paragraph(text)))
            for name, text in entries
        ),
    )


def paragraph(text: str) -> nodes.paragraph:
    """A paragraph in which text between backquotes is bold."""
    parts = text.split("`")
    return nodes.paragraph(
        "",
        "",
        *(nodes.strong("", part) if place % 2 else nodes.Text(part) for place, part in enumerate(parts)),
    )


def main() -> None:
    """Write all pages, and remove those of commands that are gone."""
    written = pages()
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.1"):
        old.unlink()
    for name, text in written.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    sys.stdout.write(f"{len(written)} pages in {FOLDER}\n")


if __name__ == "__main__":
    main()
