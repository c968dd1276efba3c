"""`trace`: where a file comes from, back to the sources."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from batch_pipeline.cli.call import CommandCall, command, names_in
from batch_pipeline.cli.options import CommandOption, common_options, json_option
from batch_pipeline.cli.output import print_json, say
from batch_pipeline.wire.contract import CommandExit

if TYPE_CHECKING:
    from rich.tree import Tree

    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.report.trace_pages import Branch

#: Width of a tree that is not printed to a terminal: a file or pipe must not cut it.
_WIDE: Final = 400


def trace(call: CommandCall) -> int:
    """Tells where PATH comes from: its receipt, the run that made it, and what it read, back to the sources.

    PATH is a key of the store, a file in it or its URL; a gather's too. Ends with 1 when something cannot be followed:
    a receipt is gone, or a file was made again after it was read.
    """
    from batch_pipeline.provenance.trace import trace as traced
    from batch_pipeline.report.trace_pages import trace_record, tree_of

    names = frozenset(name for text in call.options["samples"] for name in names_in(text))
    history = traced(call.store, call.options["path"], samples=names or None)
    if call.json:
        print_json(trace_record(history))
    else:
        _print(tree_of(history))
    for problem in history.problems:
        say(problem)
    return CommandExit.FAILED if history.problems else CommandExit.DONE


def _print(branch: Branch) -> None:
    from rich.console import Console

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDE, highlight=False, soft_wrap=False)
    with console.capture() as captured:
        console.print(_tree(branch))
    for line in captured.get().rstrip("\n").split("\n"):
        click.echo(line.rstrip())


def _tree(branch: Branch) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    first, *rest = branch.lines
    label = Text(first, style="bold")
    for line in rest:
        label.append(f"\n{line}", style="not bold")
    tree = Tree(label)
    for child in branch.children:
        tree.children.append(_tree(child))
    return tree


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options = [
        click.Argument(["path"]),
        *common_options(),
        json_option(),
        CommandOption(
            "--samples",
            "Of a gather: back through these samples alone, names with commas between, or @FILE; repeatable.",
            multiple=True,
            metavar="NAMES",
        ),
    ]
    return command("trace", workflow, argv, trace, options)
