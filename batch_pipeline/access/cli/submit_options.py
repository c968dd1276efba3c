"""Options of `submit` and `config`, and the `SubmitRequest` made from them and the working directory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batch_pipeline.cli.call import CommandCall
from batch_pipeline.cli.options import CommandOption, SettingOption, json_option, yes_option

if TYPE_CHECKING:
    from batch_pipeline.access.request import SubmitRequest
    from batch_pipeline.records.code_state import CodeState


def submit_options() -> list[click.Parameter]:
    """Options that describe a run. Everything behind the first word that is no option is the script's."""
    script = click.Argument(["script"], nargs=-1, required=True, type=click.UNPROCESSED, metavar="SCRIPT [ARGUMENT]...")
    levels = click.Choice(["test", "standard", "full"])
    return [
        script,
        CommandOption("--dataset", "The dataset.", required=True, metavar="NAME"),
        CommandOption("--description", "What the run is for.", required=True, metavar="TEXT"),
        CommandOption(
            "--access-level", "How much of it the run may touch.", type=levels, default="test", show_default=True
        ),
        CommandOption("--output-dir", "Where it writes, inside the level's area.", required=True, metavar="PREFIX"),
        CommandOption("--repository", "The repository, by URL or name; the working directory's.", metavar="URL"),
        CommandOption("--commit", "The commit, all digits of it; the working directory's.", metavar="SHA"),
        CommandOption("--cwd", "Where in the repository the script starts; as here.", metavar="FOLDER"),
        CommandOption(
            "--skip-repo-checkout", "Check out nothing: for programs of the image, at level test.", is_flag=True
        ),
        CommandOption("--image", "The driver's image; the level's own.", metavar="IMAGE"),
        CommandOption("--env", "A variable for the script; repeatable.", multiple=True, metavar="NAME=VALUE"),
        CommandOption(
            "--config",
            "Configuration for the script, TOML; repeatable, later ones win.",
            name="driver_config",
            multiple=True,
            metavar="FILE",
        ),
        CommandOption("--cpu", "vCPUs of the driver.", type=float, default=1.0, show_default=True),
        CommandOption("--memory", "Memory of the driver.", type=int, default=2048, show_default=True, metavar="MIB"),
        yes_option(),
        json_option(),
        SettingOption(
            "--backend", "backend.name", "Where jobs run.", type=click.Choice(["embedded", "aws"]), show_choices=True
        ),
        CommandOption("--settings", "Settings file instead of ./batch_pipeline.toml.", name="config", metavar="FILE"),
        CommandOption("--verbose", "Say more; print tracebacks.", is_flag=True),
    ]


def submit_request_of(call: CommandCall, *, confirm: bool = True) -> SubmitRequest:
    """Makes the request; at level full a user at a terminal must confirm. Raises InvalidConfig, BadParameter."""
    from batch_pipeline.access.configuration import read_configs
    from batch_pipeline.access.request import SubmitRequest

    options = call.options
    return SubmitRequest(
        dataset=options["dataset"],
        description=options["description"],
        access_level=options["access_level"],
        output_dir=options["output_dir"],
        script=tuple(options["script"]),
        image=options["image"] or "",
        environment=_variables(options["env"]),
        config=read_configs(options["driver_config"]),
        cpu=options["cpu"],
        memory_mb=options["memory"],
        confirmed=bool(options["yes"]) or (confirm and _confirmed(call)),
        **_code(call),
    )


def _code(call: CommandCall) -> dict[str, Any]:
    """Repository, commit and folder of the options, else of the working directory, and whether that has changes."""
    options = call.options
    named = {"repository": options["repository"] or "", "commit": options["commit"] or "", "cwd": options["cwd"] or ""}
    if named["repository"] or named["commit"] or options["skip_repo_checkout"]:
        return named
    from batch_pipeline.records.code_state import read_code_state

    here = Path.cwd()
    state = read_code_state(here)
    if not state.commit:
        return named
    cwd = here.resolve().relative_to(Path(state.root).resolve()) if state.root else Path()
    return {
        "repository": _remote(state),
        "commit": state.commit,
        "cwd": named["cwd"] or ("" if cwd == Path() else str(cwd)),
        "dirty": state.changed or bool(state.untracked),
    }


def _remote(state: CodeState) -> str:
    """The remote's URL; a path is seen from the repository."""
    url = state.repository
    local = url and "://" not in url and ":" not in url.partition("/")[0]
    return str((Path(state.root) / url).resolve()) if local else url


def _confirmed(call: CommandCall) -> bool:
    if call.options["access_level"] != "full" or call.options.get("dry_run") or not sys.stdin.isatty():
        return False
    return click.confirm(
        f"Level full may change and remove everything of the dataset {call.options['dataset']}. Go on?", err=True
    )


def _variables(pairs: Sequence[str]) -> dict[str, str]:
    variables = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.BadParameter("A variable is NAME=VALUE.", param_hint="--env")
        variables[name] = value
    return variables
