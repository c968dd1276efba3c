"""`pool`: the task pool. A group of verbs of its own, each loaded when it is used."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask

#: Verb -> the module here that makes it, and its line in the help.
POOL_VERBS: Final = {
    "init": ("tasks", "Make a pool."),
    "import": ("tasks", "Add the tasks of a file: PyAnamo's, PiCaS's, CSV, TSV or JSON lines."),
    "add": ("tasks", "Add one task: pool add ID -- COMMAND…."),
    "status": ("status", "Show how far the pool is: counts, progress, rate, time left."),
    "show": ("show", "List tasks, or tell everything about some."),
    "retry": ("moves", "Have failed and cancelled tasks done again."),
    "reset": ("moves", "Have tasks done from the beginning, whatever they are."),
    "cancel": ("moves", "Have tasks not done."),
    "delete": ("moves", "Take tasks out of the pool; their history stays."),
    "undo": ("moves", "Take a retry, reset, cancel or delete back."),
    "work": ("work", "Be a pilot: claim tasks, run them, settle them."),
    "autopilot": ("work", "Keep as many pilots as the backlog needs."),
    "reap": ("moves", "Take back what pilots hold that are not heard of."),
    "export": ("tasks", "Write all tasks to a file: CSV, JSON lines, SQLite."),
    "views": ("show", "List the ids of tasks by state, as PiCaS's views have them."),
}


class PoolVerbs(click.Group):
    """The verbs of the pool."""

    def __init__(self, workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> None:
        super().__init__(
            name="pool",
            help="A pool of tasks, and pilots that drain it: for lists that change while work goes on, tasks of "
            "seconds, and hosts outside AWS. docs/pool.md shows how.",
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
            no_args_is_help=True,
        )
        self._workflow = workflow
        self._argv = argv

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order of use."""
        return list(POOL_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Loads a verb; None for a word that is none."""
        if cmd_name not in POOL_VERBS:
            return None
        module = import_module(f"batch_pipeline.pool.cli.{POOL_VERBS[cmd_name][0]}")
        made: click.Command = module.make(cmd_name, self._workflow, self._argv)
        return made

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb; a word that is none is told with the nearest one."""
        if args[0] not in POOL_VERBS and not ctx.resilient_parsing:
            near = difflib.get_close_matches(args[0], POOL_VERBS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(POOL_VERBS)}."
            raise click.UsageError(f"There is no verb 'pool {args[0]}'. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the verbs without loading them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, line) for verb, (_, line) in POOL_VERBS.items()])


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The group."""
    return PoolVerbs(workflow, argv)
