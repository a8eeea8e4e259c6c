"""What of the documentation is made and not written: `python docs/refresh.py [PAGE ...]` makes it again.

- the outputs in `console` blocks, from a real run (`blocks.py`); one that differs only in what varies stays as it is;
- the tables of options, between `<!-- options: VERB -->` and `<!-- end -->`, from the program itself;
- the tables of memory and time, between `<!-- plan: NAME -->` and `<!-- end -->`, from the planner (`plan_tables.py`);
- the tables of recipe keys, between `<!-- recipe: CLASS -->` and `<!-- end -->`, from the classes (`recipe_tables.py`);
- the tables of speed, between `<!-- speed: KIND -->` and `<!-- end -->`, from benchmarks/results (`speed_tables.py`);
  README.md has one too;
- the tables of what a setting does, between `<!-- curve: KIND MODEL -->` and `<!-- end -->` (`curve_tables.py`);
- the grid of animations of README.md, between `<!-- grid: MODEL -->` and `<!-- end -->` (`grid.py`);
- docs/api.md, from docstrings (`api.py`).

Tests compare all of it with what is committed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

sys.path.insert(0, str(Path(__file__).parent))

import api
import curve_tables
import grid
import plan_tables
import recipe_tables
import speed_tables
from blocks import ROOT, Command, Runner, agree, blocks_of, commands_of, pages

if TYPE_CHECKING:
    from cyclopts import App

_MADE = re.compile(r"(<!-- (\w+): ([^>]*?) -->\n).*?(\n?<!-- end -->)", re.DOTALL)
_PLACEHOLDERS = {int: "N", float: "X", Path: "PATH"}
README = ROOT / "README.md"  # its tables are made, its blocks show no outputs
_HEADINGS = {"Arguments": "argument", "Parameters": "option"}  # what cyclopts calls them


def main(arguments: list[str]) -> None:
    """Make pages again: those that are named, or all."""
    chosen = [Path(argument).resolve() for argument in arguments] or [*pages(), README]
    with Runner() as runner:
        for page in chosen:
            if page == api.PAGE:
                api.main([])
            else:
                _refresh(page, runner)


def _refresh(page: Path, runner: Runner) -> None:
    text = page.read_text(encoding="utf-8")
    page.write_text(with_tables(text), encoding="utf-8")
    if page == README or not any(block.runs for block in blocks_of(text)):
        return
    commands = runner.run(page)
    page.write_text(with_outputs(page.read_text(encoding="utf-8"), commands), encoding="utf-8")
    for command in commands:
        if command.expected is None and command.status:
            print(f"{page.name}:{command.block.line} fails: {command.text}\n{command.printed}", file=sys.stderr)


def with_tables(text: str) -> str:
    """The page with its tables made again."""

    def table(match: re.Match[str]) -> str:
        makers = {
            "options": options,
            "plan": lambda name: plan_tables.TABLES[name](),
            "recipe": recipe_tables.table,
            "speed": speed_tables.table,
            "curve": curve_tables.table,
            "grid": grid.table,
        }
        lines = makers[match[2]](match[3])
        return match[1] + "\n".join(lines) + "\n<!-- end -->"

    return _MADE.sub(table, text)


def with_outputs(text: str, commands: list[Command]) -> str:
    """The page with the outputs of its `console` blocks as they were printed."""
    printed = iter(command for command in commands if command.expected is not None)
    pieces, at = [], 0
    for block in blocks_of(text):
        if block.language != "console" or not block.runs:
            continue
        pieces.append(text[at : block.start])
        for _ in commands_of(block):
            command = next(printed)
            assert command.expected is not None
            stays = block.kind != "varies" and agree(command.expected, command.printed)
            output = command.expected if stays else command.printed
            pieces.append(f"$ {command.text}\n" + (f"{output}\n" if output else ""))
        at = block.end
    return "".join([*pieces, text[at:]])


def options(verb: str) -> list[str]:
    """A table of all arguments and options of a verb, with their help."""
    from cogworks.cli.main import app

    command: App = app
    for name in verb.split():
        command = command[name]
    lines: list[str] = []
    group = None
    for argument in sorted(_shown(command), key=_order):
        name = argument.parameter.group[0].name
        if name != group:
            group = name
            lines += [*([""] if lines else []), f"| {_HEADINGS.get(group, group)} | |", "| --- | --- |"]
        lines.append(f"| {_names(argument)} | {_help(argument)} |")
    return lines


def _shown(command: App) -> Iterator[Any]:
    for argument in command.assemble_argument_collection(parse_docstring=True):
        if argument.show:
            yield argument


def _order(argument: Any) -> tuple[int, int]:
    """As in the help: arguments, then groups in their order, then what belongs to none."""
    group = argument.parameter.group[0]
    if group.name == "Arguments":
        return -1, 0
    return (9, 0) if group.name == "Parameters" else (0, group.sort_key or 0)


def _names(argument: Any) -> str:
    kind = _kind(argument.hint)
    names = list(argument.names)
    if not names[0].startswith("-"):
        return f"`{names[0]}`"
    flags, negatives = [name for name in names if name not in argument.negatives], list(argument.negatives)
    word = _PLACEHOLDERS.get(kind, names[0].rpartition("-")[2].upper())
    value = "" if kind is bool else f" {word}"
    return ", ".join(
        [f"`{name}{value}`" if index == 0 else f"`{name}`" for index, name in enumerate(flags + negatives)]
    )


def _help(argument: Any) -> str:
    words = " ".join((argument.parameter.help or "").split()).replace("|", r"\|")
    choices = _choices(argument.hint)
    if choices:
        words += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
    default = argument.field_info.default
    if (
        isinstance(default, int | str)
        and not isinstance(default, bool)
        and default != ""
        and argument.names[0][0] == "-"
    ):
        words += f" `{default}` if not given."
    return words


def _choices(hint: Any) -> tuple[str, ...]:
    if get_origin(hint) is Literal:
        return get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return next((found for each in get_args(hint) if (found := _choices(each))), ())
    return ()


def _kind(hint: Any) -> Any:
    """The type of one value."""
    if get_origin(hint) in (Union, UnionType, tuple):
        return next((_kind(each) for each in get_args(hint) if each not in (type(None), ...)), None)
    return hint


if __name__ == "__main__":
    main(sys.argv[1:])
