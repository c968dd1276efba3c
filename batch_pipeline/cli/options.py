"""Options. Most stand for a setting: their name is its key, and the help shows its environment variable and default.

An option that stands for `backend.queue` has the parameter name `backend__queue`; one that was not given is None, so
that `load_settings` looks at the environment, the file and the defaults. Parameters of steps are settings too, below
`params`. The few options that are no settings (`--force`) take theirs from `BATCH_PIPELINE__CLI__…`.

(A little longer than most modules: every option that several verbs share.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from batch_pipeline.config import CLI_PREFIX, default_values, variable_of
from batch_pipeline.pipeline.step import Parameter
from batch_pipeline.wire.errors import InvalidPipeline
from batch_pipeline.wire.job import text_of

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import Task

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
#: Headings of the help, in this order.
OPTIONS: Final = "Options"
CELLS: Final = "Which cells"
PARAMETERS: Final = "Parameters of the steps"
SETTINGS: Final = "Settings"
HEADINGS: Final = (OPTIONS, CELLS, PARAMETERS, SETTINGS)

_KINDS: Final = {bool: click.BOOL, int: click.INT, float: click.FLOAT, str: click.STRING}


class SettingOption(click.Option):
    """An option that stands for a setting; see the module."""

    def __init__(self, flag: str, key: str, help: str, *, default_text: str = "", **more: Any) -> None:
        self.key = key
        self.heading = PARAMETERS if key.startswith("params.") else SETTINGS
        self._default_text = default_text
        super().__init__([flag, _name_of(key)], help=help, default=None, **more)

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Adds the variable and the default, which click does not know."""
        extra = super().get_help_extra(ctx)
        extra["envvars"] = (variable_of(self.key),)
        default = default_values().get(self.key, "")
        shown = self._default_text or text_of(default)
        if shown:
            extra["default"] = shown
        return extra


class CommandOption(click.Option):
    """An option that is no setting: a flag or a choice of one command."""

    def __init__(
        self, flag: str, help: str, *, heading: str = OPTIONS, name: str = "", short: str = "", **more: Any
    ) -> None:
        self.heading = heading
        variable = CLI_PREFIX + flag.split("/")[0].lstrip("-").upper().replace("-", "_")
        declarations = [text for text in (flag, short, name) if text]
        super().__init__(declarations, help=help, envvar=variable, show_envvar=True, **more)


def settings_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """`section.key` -> value of the options that were given, for `load_settings`."""
    values_by_key = {_key_of(name): value for name, value in values.items() if "__" in name and value is not None}
    if values.get("preset") is not None:
        values_by_key["preset"] = values["preset"]
    if values_by_key.get("store.url") == "":
        raise click.BadParameter("it names no store; a variable may be empty.", param_hint="--store")
    for option, section in (("tag", "tags"), ("param", "params"), ("reference_file", "reference_files")):
        for pair in values.get(option) or ():
            key, equals, value = pair.partition("=")
            if not equals or not key:
                raise click.BadParameter(f"{pair!r} is not NAME=VALUE.", param_hint=f"--{option.replace('_', '-')}")
            values_by_key[f"{section}.{key}"] = value
    return values_by_key | _set_by_key(values.get("set") or (), values_by_key)


def _set_by_key(pairs: Sequence[str], values_by_key: Mapping[str, Any]) -> dict[str, str]:
    """`section.key` -> value of `--set`."""
    values: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip()
        if not equals or not key:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE, like steps.call.memory_mb=4000.", param_hint="--set")
        if key in values_by_key:
            raise click.BadParameter(f"another option sets {key} too; give one of them.", param_hint="--set")
        values[key] = value
    return values


def _name_of(key: str) -> str:
    """The name of a setting's option in Python: with a middle dot for each dot but the first, as no task has one."""
    return key.replace(".", "__", 1).replace(".", "·")


def _key_of(name: str) -> str:
    return name.replace("__", ".", 1).replace("·", ".")


def common_options() -> list[click.Parameter]:
    """What every command takes: where the store and the backend are, and how to talk."""
    return [
        SettingOption("--bucket-name", "store.bucket", "Bucket; a folder in the local store unless on AWS."),
        SettingOption("--store", "store.url", "The store itself: s3://bucket/prefix or a folder.", metavar="URL"),
        SettingOption("--prefix", "store.prefix", "Prefix of every key in the store."),
        SettingOption(
            "--backend", "backend.name", "Where jobs run.", type=click.Choice(["embedded", "aws"]), show_choices=True
        ),
        SettingOption(
            "--container",
            "embedded.container",
            "What runs the steps' containers on this machine.",
            type=click.Choice(["podman", "docker"]),
        ),
        SettingOption("--preset", "preset", "Settings of the table [preset.NAME] before others.", metavar="NAME"),
        CommandOption(
            "--set", "Any setting by its name; repeatable.", heading=SETTINGS, multiple=True, metavar="KEY=VALUE"
        ),
        CommandOption("--config", "Settings file instead of ./batch_pipeline.toml.", metavar="FILE"),
        CommandOption("--verbose", "Say more: log lines on stderr; print tracebacks.", is_flag=True),
        CommandOption("--log-file", "Append log lines to this file.", metavar="FILE"),
    ]


def json_option() -> click.Option:
    """`--json`."""
    return CommandOption("--json", "Print JSON instead of tables.", is_flag=True)


def tag_option() -> click.Option:
    """`--tag`."""
    return CommandOption("--tag", "Tag of all jobs; repeatable.", multiple=True, metavar="NAME=VALUE")


def event_options() -> list[click.Parameter]:
    """`--events`, `--notify` and `--notify-command`."""
    return [
        CommandOption("--events", "Append what happens to this file as JSON lines; -: stdout.", metavar="FILE|-"),
        SettingOption("--notify", "notify.url", "POST how it ended to this URL, as JSON.", metavar="URL"),
        SettingOption(
            "--notify-command", "notify.command", "Run this program with how it ended on stdin.", metavar="COMMAND"
        ),
    ]


def prepare_options() -> list[click.Parameter]:
    """`--prepare` and what it builds a reference from."""
    return [
        CommandOption("--prepare", "First make what is missing: images, definitions, code, reference.", is_flag=True),
        CommandOption(
            "--reference-file",
            "With --prepare: a file from which the reference is built; repeatable.",
            multiple=True,
            metavar="INPUT=FILE|URL",
        ),
    ]


def yes_option() -> click.Option:
    """`--yes`."""
    return CommandOption("--yes", "Do not ask.", is_flag=True)


def pipeline_options() -> list[click.Parameter]:
    """What commands about a pipeline's cells take besides."""
    return [
        SettingOption("--queue", "backend.queue", "Job queue."),
        SettingOption("--share", "backend.share_identifier", "Share identifier, for a fair share queue."),
        SettingOption("--priority", "backend.priority", "Priority within the share, 0 to 9999."),
        SettingOption(
            "--pipeline-name", "pipeline.name", "Name in job names and records.", default_text="the name of the class"
        ),
        SettingOption("--sample-list-file", "samples.file", "List or sheet of samples.", metavar="FILE"),
        SettingOption("--sources", "samples.sources", "Where the samples' own files lie.", metavar="PREFIX|URL"),
        SettingOption(
            "--reference",
            "pipeline.reference",
            "The reference that steps read.",
            default_text="the only one in the store",
        ),
        SettingOption(
            "--min-success", "pipeline.min_success", "Share of samples that a gather needs.", metavar="SHARE"
        ),
        SettingOption(
            "--check-results/--trust-receipts",
            "pipeline.check_results",
            "Whether a cell whose result files were removed runs again.",
        ),
        SettingOption("--max-cost", "prices.max_cost", "Most that the run may cost; 0: no bound.", metavar="AMOUNT"),
    ]


def run_options() -> list[click.Parameter]:
    """What commands that submit take besides."""
    return [
        SettingOption("--description", "pipeline.description", "What the run is for."),
        SettingOption(
            "--keep-temporary/--remove-temporary",
            "pipeline.keep_temporary",
            "Whether temporary outputs stay when every cell that reads them is done.",
        ),
        SettingOption("--scheduler-host", "luigi.scheduler_host", "Host of a central luigid.", metavar="HOST"),
        SettingOption("--scheduler-port", "luigi.scheduler_port", "Port of that luigid.", metavar="PORT"),
        tag_option(),
        SettingOption(
            "--on-interrupt",
            "watch.on_interrupt",
            "What Ctrl-C does to the jobs.",
            type=click.Choice(["ask", "leave", "cancel"]),
        ),
        SettingOption("--max-cost-cancel", "prices.max_cost_cancel", "Cancel jobs once more is spent.", is_flag=True),
    ]


def selection_options(steps: Completer, samples: Completer) -> list[click.Parameter]:
    """Which cells a command means."""

    def option(flag: str, help: str, **more: Any) -> CommandOption:
        return CommandOption(flag, help, heading=CELLS, **more)

    what = "These samples: names with commas between, or @FILE; repeatable."
    trust = "For this command, trust results made by other code, parameters or inputs."
    return [
        option("--from-step", "This step and what depends on it.", metavar="STEP", shell_complete=steps),
        option("--only-step", "This step alone; repeatable.", multiple=True, metavar="STEP", shell_complete=steps),
        option("--samples", what, multiple=True, metavar="NAMES", shell_complete=samples),
        option("--failed", "The samples that failed or were cancelled last time.", is_flag=True),
        option("--force", "Run chosen cells even when they are done.", is_flag=True),
        option("--accept-code-changes", trust, is_flag=True),
        option("--share-steps", "Another pipeline of the store may have steps of the same names.", is_flag=True),
    ]


def parameter_options(tasks: Mapping[str, Task], others: Sequence[click.Parameter]) -> list[click.Parameter]:
    """One option a parameter, which sets it for all tasks that have it, and one for each of these: `--call.quality`.

    The help shows the latter where several tasks have the parameter. Raises InvalidPipeline for a taken name.
    """
    names = {flag: option for option in others for flag in option.opts}
    tasks_by_parameter: dict[str, list[Task]] = {}
    for task in tasks.values():
        for name in task.step_class.declared(Parameter):
            flag = _flag_of(name)
            if flag in names:
                step = task.step_class.__name__
                raise InvalidPipeline(f"Parameter {name!r} of {step} would hide the option {flag}. Rename it.")
            tasks_by_parameter.setdefault(name, []).append(task)
    if not tasks_by_parameter:
        return []
    options: list[click.Parameter] = []
    for name, with_it in tasks_by_parameter.items():
        options.append(_shared_option(name, with_it))
        options += [_task_option(name, task, hidden=len(with_it) == 1) for task in with_it]
    per_step = CommandOption(
        "--param", "A parameter of one step; repeatable.", heading=PARAMETERS, multiple=True, metavar="STEP.NAME=VALUE"
    )
    return [*options, per_step]


def _shared_option(name: str, tasks: Sequence[Task]) -> SettingOption:
    """The option that sets a parameter for all tasks that have it; its default names the tasks that differ."""
    parameters: list[Parameter] = [task.step_class.declared(Parameter)[name] for task in tasks]
    # What is a number for one step and a text for another is passed on as it is written: 007 and 7.0 are no 7.
    parameter = next((each for each in parameters if each.kind is str), parameters[0])
    defaults = {task.name: text_of(_default_of(task, name)) for task in tasks}
    general = text_of(parameter.default) if len(set(defaults.values())) > 1 else defaults[tasks[0].name]
    differing = [f"{task}: {default}" for task, default in defaults.items() if default != general]
    same = [general] if len(differing) < len(defaults) else []
    return _parameter_option(_flag_of(name), f"params.{name}", parameter, ", ".join((*same, *differing)))


def _task_option(name: str, task: Task, *, hidden: bool) -> SettingOption:
    """The option that sets a parameter for one task."""
    parameter: Parameter = task.step_class.declared(Parameter)[name]
    flag = f"--{task.name}.{_flag_of(name)[2:]}"
    return _parameter_option(
        flag, f"params.{task.name}.{name}", parameter, text_of(_default_of(task, name)), hidden=hidden
    )


def _default_of(task: Task, name: str) -> Any:
    return task.params.get(name, task.step_class.declared(Parameter)[name].default)


def _flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def _parameter_option(
    flag: str, key: str, parameter: Parameter, default: str, *, hidden: bool = False
) -> SettingOption:
    help = parameter.help or f"Parameter {parameter.name} of the steps."
    kind = type(parameter.default)
    if kind is bool:
        both = f"{flag}/--no-{flag[2:]}"
        return SettingOption(both, key, help, default_text=default, type=click.BOOL, hidden=hidden)
    return SettingOption(flag, key, help, default_text=default, type=_type_of(parameter, kind), hidden=hidden)


def _type_of(parameter: Parameter, kind: type) -> click.ParamType[Any]:
    if parameter.choices:
        return click.Choice([str(choice) for choice in parameter.choices])
    if parameter.minimum is not None or parameter.maximum is not None:
        ranged = click.IntRange if kind is int else click.FloatRange
        return ranged(min=_as(kind, parameter.minimum), max=_as(kind, parameter.maximum))
    return _KINDS.get(kind, click.STRING)


def _as(kind: type, bound: float | None) -> Any:
    return None if bound is None else kind(bound)
