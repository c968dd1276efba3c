"""The verbs. Each is loaded when it is used; without one it is `run`, as the command line has always been."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem

from batch_pipeline.cli.wings import VERBS_OF_WINGS
from batch_pipeline.wire.contract import CommandExit

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask

#: Verb -> its line in the help; the module of the same name makes the command, or the one that a wing brings.
VERBS: Final = {
    "init": "Write a new project: a small pipeline with its data, settings and tests.",
    "run": "Run what is missing: plan, submit, watch. The default.",
    "plan": "Show what run would do; writes nothing.",
    "dag": "Draw the pipeline: sources, steps and results, as Mermaid, DOT or SVG.",
    "status": "Show how far every step is, and why cells failed.",
    "watch": "Follow live jobs to their end; submits nothing.",
    "logs": "Print the log of a sample's step or a run's driver, or search a cohort's.",
    "cancel": "Cancel the live jobs of a run, or of all.",
    "width": "Change how many cells of a step run side by side, while they run.",
    "rightsize": "Propose memory and vCPUs from what the cells took.",
    "runs": "List the runs of the store; show, compare or export some.",
    "report": "Write a page about a run: one HTML file that needs no network.",
    "store": "Write the cell table of a run once more.",
    "prices": "Show what machines cost an hour, or take newer prices from a file.",
    "trace": "Tell where a file comes from, back to the sources.",
    "verify": "Read results again and compare them with their receipts.",
    "release": "Copy a run's results to a dated place that is never changed.",
    "subset": "Copy chosen samples to another store, recorded in both.",
    "reference": "Build the files that every sample shares.",
    "submit": "Run a script of reviewed code on a dataset, if the gate lets it through.",
    "config": "Print the configuration that the script of a submit would get.",
    "pool": "Tasks in a table, and the pilots that drain it.",
    "deploy": "Set up what runs need: infrastructure, images, definitions, code, references.",
    "doctor": "Check the installation, the store and the backend.",
    "ui": "Start Luigi's scheduler on this machine and open its page.",
    "demo": "Run the pipeline on samples with known answers.",
    "serve": "Start runs for others, by the policies of datasets, and show what ran.",
    "completion": "Print the completion script of a shell.",
}
#: Verbs that make sense without a pipeline's file.
WITHOUT_PIPELINE: Final = (
    "init",
    "status",
    "watch",
    "logs",
    "cancel",
    "width",
    "rightsize",
    "runs",
    "report",
    "store",
    "prices",
    "trace",
    "verify",
    "release",
    "subset",
    "submit",
    "config",
    "pool",
    "deploy",
    "doctor",
    "ui",
    "serve",
    "completion",
)

EXIT_CODES: Final = {
    CommandExit.DONE: "All chosen cells are done, or nothing was to do.",
    CommandExit.FAILED: "At least one cell failed or cannot run, or the command could not do what it says.",
    CommandExit.USAGE: "The command line, settings, sample list or pipeline is wrong; nothing was done.",
    CommandExit.CONFLICT: "Another driver or live jobs stand in the way; nothing was done.",
    CommandExit.UNREACHABLE: "The store, the backend or the scheduler could not be reached.",
    CommandExit.INTERRUPTED: "Ctrl-C. What became of the jobs was said.",
}


class Verbs(click.Group):
    """The group of a pipeline, or of the package when `workflow` is None."""

    def __init__(self, workflow: type[WorkflowTask] | None, argv: list[str]) -> None:
        super().__init__(
            name=None,
            help=_help(workflow),
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
            no_args_is_help=workflow is None,
        )
        self.workflow = workflow
        self.argv = argv
        self.params.append(_version_option())

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order of the flow."""
        return [verb for verb in VERBS if self.workflow is not None or verb in WITHOUT_PIPELINE]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Loads a verb; None for a word that is none."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = import_module(VERBS_OF_WINGS.get(cmd_name, f"batch_pipeline.cli.{cmd_name}"))
        made: click.Command = module.make(self.workflow, self.argv)
        return made

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts `run` before options that have no verb."""
        # While a shell completes, "no words yet" may still become a verb.
        verbless = _is_option(args[0]) if args else not ctx.resilient_parsing
        if args and verbless:
            args = self._verb_first(ctx, args)
        elif self.workflow is not None and verbless:
            args = ["run"]
        return super().parse_args(ctx, args)

    def _verb_first(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The words with the verb among them in front, or `run` where there is none: `--store x status`."""
        usual = self.get_command(ctx, "run" if self.workflow is not None else "status")
        options = [param for param in usual.params if isinstance(param, click.Option)] if usual else []
        valued = {name for option in options if not option.is_flag for name in option.opts}
        verbs = self.list_commands(ctx)
        for place, word in enumerate(args):
            if word in verbs and args[place - 1] not in valued:
                return [word, *args[:place], *args[place + 1 :]]
        return ["run", *args] if self.workflow is not None else args

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb; a word that is none is told with the nearest one."""
        if args[0] not in self.list_commands(ctx) and not ctx.resilient_parsing:
            raise click.UsageError(self._unknown(args[0], ctx), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the verbs without loading them, then the exit codes."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, VERBS[verb]) for verb in self.list_commands(ctx)])
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(int(code)), text) for code, text in EXIT_CODES.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Verbs, and where an option begins, those of `run`."""
        if incomplete.startswith("-") and self.workflow is not None:
            command = self.get_command(ctx, "run")
            if command is not None:
                run = click.Context(command, info_name="run", parent=ctx, resilient_parsing=True)
                return command.shell_complete(run, incomplete)
        verbs = [verb for verb in self.list_commands(ctx) if verb.startswith(incomplete)]
        return [CompletionItem(verb, help=VERBS[verb]) for verb in verbs] or super().shell_complete(ctx, incomplete)

    def _unknown(self, word: str, ctx: click.Context) -> str:
        if word in VERBS:
            return (
                f"The verb {word!r} needs a pipeline. Run it with the pipeline's file: python main.py {word}."
                " `batch-pipeline init NAME` writes one to begin with."
            )
        near = difflib.get_close_matches(word, self.list_commands(ctx), n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(self.list_commands(ctx))}."
        return f"There is no verb {word!r}. {hint}"


def _is_option(word: str) -> bool:
    """Whether it is an option of `run` rather than of the group itself."""
    return word.startswith("-") and word not in ("-h", "--help", "--version")


def _help(workflow: type[WorkflowTask] | None) -> str:
    if workflow is None:
        return (
            "Samples x steps as dependent AWS Batch array jobs: the verbs that need no pipeline. A pipeline's own file"
            " (python main.py) has all of them."
        )
    about = (workflow.__doc__ or workflow.__name__).strip().split("\n", 1)[0]
    return (
        f"{about}\n\nWithout a verb: run. Its options, the parameters of the steps among them, are in `run --help`."
        " Every setting is taken from its option, its environment variable, batch_pipeline.toml, or its default,"
        " in that order."
    )


def _version_option() -> click.Option:
    def show(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted and not ctx.resilient_parsing:
            from batch_pipeline import __version__

            click.echo(f"batch_pipeline {__version__}")
            ctx.exit()

    return click.Option(
        ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=show, help="Show the version and exit."
    )
