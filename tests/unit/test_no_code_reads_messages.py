"""No code decides by the text of an error: what a caller must know is an attribute, such as `is_web_page`.

Texts of errors are `str(error)`, `error.args`, and `reason` or `remedy` of a `CdrSyncError`. They may be
printed, stored, cut at a line break and passed on, but not compared, searched or split. The stable words
of a `RequestError` (`error.reason`, such as "timeout") may be compared. Errors of foreign libraries that are
reached by an attribute, such as `error.orig`, are not ours.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import etl
from etl import errors

PACKAGE = Path(etl.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
FAILURES = {
    kind.__name__
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.CdrSyncError)
}
# What asks a text a question. Methods that only lay it out, such as `strip` or `replace`, are harmless.
ASKING_METHODS = {
    *("startswith", "endswith", "find", "rfind", "index", "rindex", "count", "partition", "rpartition"),
    *("split", "rsplit", "removeprefix", "removesuffix"),
}
ASKING_FUNCTIONS = {"match", "search", "fullmatch", "findall", "finditer"}  # of re and of compiled patterns


def errors_in(function: ast.AST) -> dict[str, bool]:
    """The names of a function that hold errors, each with whether its `reason` is a sentence."""
    found: dict[str, bool] = {}
    for node in ast.walk(function):
        match node:
            case ast.ExceptHandler(name=str(name), type=ast.expr() as kind):
                found[name] = bool(names_in(kind) & FAILURES)
            case ast.arg(arg=name, annotation=ast.expr() as kind) if any(map(is_error, names_in(kind))):
                found[name] = bool(names_in(kind) & FAILURES)
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=kind)) if is_error(named(kind)):
                found[name] = named(kind) in FAILURES
            case ast.MatchAs(name=str(name), pattern=ast.MatchClass(cls=kind)) if is_error(named(kind)):
                found[name] = named(kind) in FAILURES
    return found


def is_error(name: str) -> bool:
    return name.endswith(("Error", "Exception"))


def named(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def names_in(node: ast.AST) -> set[str]:
    """The names of types in an annotation or an `except`, also where the annotation is a string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        node = ast.parse(node.value, mode="eval")
    return {named(inner) for inner in ast.walk(node)} - {""}


def is_text(node: ast.AST, holders: dict[str, bool], texts: set[str]) -> bool:  # noqa: PLR0911 (a table)
    """Whether an expression is the text of an error, whole, cut, laid out or as part of another text."""
    match node:
        case ast.Call(func=ast.Name(id="str" | "repr" | "format"), args=[ast.Name(id=name), *_]):
            return name in holders
        case ast.Attribute(value=ast.Name(id=name), attr="args"):
            return name in holders
        case ast.Attribute(value=ast.Name(id=name), attr="reason" | "remedy"):
            return holders.get(name, False)
        case ast.Name(id=name):
            return name in texts
        case ast.FormattedValue(value=ast.Name(id=name)):
            return name in holders or name in texts
        case ast.JoinedStr(values=parts):
            return any(is_text(part, holders, texts) for part in parts)
        case ast.Subscript(value=inner) | ast.FormattedValue(value=inner) | ast.NamedExpr(value=inner):
            return is_text(inner, holders, texts)
        case ast.Call(func=ast.Attribute(value=inner, attr=method)) if method not in ASKING_METHODS:
            return is_text(inner, holders, texts)
    return False


def questions_in(source: str) -> Iterator[int]:
    """The lines of a module on which the text of an error is compared, searched or split."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for function in functions:
        holders = errors_in(function)
        texts: set[str] = set()
        for node in ast.walk(function):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if is_text(value, holders, texts):
                    texts.add(name)
        for node in ast.walk(function):
            asked: list[ast.AST] = []
            match node:
                case ast.Compare(left=left, comparators=others):
                    asked = [left, *others]
                case ast.Call(func=ast.Attribute(), args=[ast.Constant(value="\n")]):
                    pass  # the first line of a message is still the message
                case ast.Call(func=ast.Attribute(value=receiver, attr=name), args=args):
                    asked = [receiver] if name in ASKING_METHODS else []
                    asked += args if name in ASKING_FUNCTIONS else []
                case ast.Match(subject=subject):
                    asked = [subject]
            if any(is_text(one, holders, texts) for one in asked):
                yield node.lineno


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_decides_by_the_text_of_an_error(path):
    assert list(questions_in(path.read_text())) == []


QUESTIONS = [
    "'page' in str(error)",
    "'page' in f'{error}'",
    "str(error) == 'x'",
    "str(error).endswith(DOUBT)",
    "str(error).lower().startswith('no ')",
    "str(error)[:4] != 'HTTP'",
    "error.args[0] == 'x'",
    "error.args == ('x',)",
    "re.search('page', str(error))",
    "PATTERN.fullmatch(repr(error))",
    "str(error).partition(':')[0]",
    "error.reason == 'x'",
    "'doctor' in error.remedy",
    "text.endswith('x')",
]


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize(
    "function",
    [
        "def f():\n try:\n  g()\n except SettingsError as error:\n  text = str(error)\n  return {}",
        "def f(error: CdrSyncError):\n    text = str(error)\n    return {}",
        "def f(error: 'errors.UsageError | None'):\n    text = str(error)\n    return {}",
        "async def f():\n    error = UsageError('x')\n    text = str(error)\n    return {}",
    ],
    ids=["except", "parameter", "annotation as string", "made here"],
)
def test_a_question_about_the_text_of_an_error_is_found(function, question):
    assert len(list(questions_in(function.format(question)))) >= 1


@pytest.mark.parametrize(
    "harmless",
    [
        "print(str(error))",
        "f'{error}; is it right?'",
        "str(error)[:40]",
        "str(error).partition('\\n')[0]",
        "str(error).replace('x', 'y')",
        "error.reason == 'timeout'",
        "error.reason in ('timeout', 'connection')",
        "error.is_web_page",
        "error.http_status == 404",
        "'locked' in str(error.orig)",
        "reason.endswith('x')",
        "'x' in str(other)",
        "error == other",
    ],
)
def test_printing_an_error_and_reading_its_attributes_is_allowed(harmless):
    source = f"def f(error: RequestError, other: object, reason: str):\n    return {harmless}"

    assert list(questions_in(source)) == []
