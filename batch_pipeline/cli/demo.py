"""`demo`: the pipeline on samples with known answers, from nothing to a verdict."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batch_pipeline.cli import reference, run
from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.options import CommandOption, common_options, json_option, run_options, yes_option
from batch_pipeline.cli.output import data, print_json, print_table, say
from batch_pipeline.pipeline.step import Input, Output, Scope
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.demo.cohort import Cohort
    from batch_pipeline.demo.truth import Score
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.wire.store import Store

#: The step of the fusion pipeline that lists fusions; the demonstration is about that pipeline.
STEP = "pizzly"
#: Columns of the samples' fusion tables that are printed.
FUSION_COLUMNS = ("sample", "gene_a", "gene_b", "breakpoint_a", "breakpoint_b", "pairs", "splits", "frame")
#: The settings file that it leaves in its folder.
SETTINGS = "demo.toml"


def demo(call: CommandCall) -> int:
    """Makes a cohort with known fusions, builds the reference, runs the pipeline, and holds the result to the truth.

    Ends with 1 when a known fusion is missed or one is listed that is not true. Given again, it finds everything done.
    """
    from batch_pipeline.demo.cohort import prepare

    if call.workflow.reference_builder is None or STEP not in call.graph.names:
        raise InvalidUse(f"The demonstration is for the fusion pipeline (a step {STEP!r} and a reference builder).")
    say("Preparing the cohort …")
    folder = Path(call.options["folder"])
    cohort = prepare(
        folder / "cohort",
        seed=call.options["seed"],
        samples=call.options["simulated"],
        real=not call.options["no_real"],
    )
    for note in cohort.notes:
        say(note)
    own = _call_for(call, cohort, folder)
    code = _reference(own, cohort)
    if code != CommandExit.DONE:
        return code
    code = run.finish(_quiet(own), run.watched(own, lambda listener: run.drive(own.request(writes=True), listener)))
    if code in (CommandExit.INTERRUPTED, CommandExit.CONFLICT):
        return code
    return max(code, _verdict(own, cohort))


def _call_for(call: CommandCall, cohort: Cohort, folder: Path) -> CommandCall:
    """The same call with the options that fit the cohort; the store that the user names stays."""
    named = {key: call.options[key] for key in ("store__url", "store__bucket") if call.options.get(key)}
    fitting: dict[str, Any] = {
        "samples__file": str(cohort.sample_list),
        "samples__sources": str(cohort.bams),
        "pipeline__reference": cohort.reference,
    }
    if not named:
        fitting["store__url"] = str(folder.absolute() / "store")
    fitting |= _memory_setting(call)
    if call.settings.embedded.container:
        # Other verbs meet the same server, and fingerprints name the images.
        fitting["embedded__container"] = call.settings.embedded.container
    for step, params in cohort.params.items():
        fitting |= {f"params__{step}.{name}": value for name, value in params.items()}
    _write_settings(folder, named | fitting)
    return CommandCall(call.workflow, call.argv, {**call.options, **fitting})


def _memory_setting(call: CommandCall) -> dict[str, Any]:
    """A setting that lets the steps start on a small machine: the samples of the demonstration need little memory."""
    from batch_pipeline.run.local_capacity import embedded_capacity

    builder = call.workflow.reference_builder
    numbers = (step.memory_mb for step in (*call.graph, builder) if step is not None)
    memory_mb = max(number for number in numbers if isinstance(number, int))
    return {"embedded__memory_mb": memory_mb} if memory_mb > embedded_capacity(call.settings.embedded)[1] else {}


def _write_settings(folder: Path, fitting: Mapping[str, Any]) -> None:
    """Leaves the options as a settings file, so that other verbs find what the demonstration made."""
    sections: dict[str, list[str]] = {}
    for name, value in fitting.items():
        section, key = name.split("__", 1)
        # A JSON string or number is one of TOML, too.
        sections.setdefault(section, []).append(f"{_toml_key(key)} = {json.dumps(value)}")
    text = "\n".join("\n".join([f"[{section}]", *lines, ""]) for section, lines in sections.items())
    (folder / SETTINGS).write_text("# The demonstration's settings, for other verbs: --config.\n\n" + text)


def _toml_key(name: str) -> str:
    return name if name.isidentifier() else json.dumps(name)


def _quiet(call: CommandCall) -> CommandCall:
    """The call without `--json`: the verdict alone is printed as JSON."""
    return CommandCall(call.workflow, call.argv, {**call.options, "json": False, "quiet": call.json})


def _reference(call: CommandCall, cohort: Cohort) -> int:
    builder = call.workflow.reference_builder
    if builder is None:
        return CommandExit.USAGE
    files = {f"file_{port}": str(getattr(cohort, port)) for port in builder.declared(Input)}
    say(f"Preparing the reference {cohort.reference} …")
    own = CommandCall(call.workflow, call.argv, {**call.options, **files, "force": False})
    outcome = run.watched(own, lambda listener: reference.build(own, builder, cohort.reference, listener))
    if isinstance(outcome, int):
        return outcome
    return CommandExit.DONE if outcome.ok else run.finish(own, outcome)


def _verdict(call: CommandCall, cohort: Cohort) -> int:
    from batch_pipeline.demo.cohort import score

    files = {sample: _file(call.store, sample, "json") for sample in cohort.samples}
    verdict = score(cohort, {sample: path for sample, path in files.items() if path is not None})
    if call.json:
        from batch_pipeline.report.records import plain

        print_json(plain(verdict) | {"perfect": verdict.perfect, "sentence": verdict.sentence})
    else:
        _tell(call, cohort, verdict)
    return CommandExit.DONE if verdict.perfect else CommandExit.FAILED


def _tell(call: CommandCall, cohort: Cohort, verdict: Score) -> None:
    header, *rows = verdict.table()
    data("")
    print_table(header, rows)
    data(f"\n{verdict.sentence}.\n")
    print_table(FUSION_COLUMNS, _fusions(call, cohort))
    data("\nFusion tables:")
    for sample in cohort.samples:
        data(f"  {sample}: {_file(call.store, sample, 'fusions.tsv') or 'none'}")
    data("Of all samples together:")
    for node in call.graph:
        outputs = type(node.step).declared(Output).values() if node.scope is Scope.COHORT else ()
        for file in (file for output in outputs for file in output.files):
            data(f"  {_spoken(call.store, layout.result(node.name, layout.COHORT, file))}")
    data(f"Results of every step: {_spoken(call.store, 'results')}/STEP/SAMPLE/")
    data(f"Logs: {_spoken(call.store, 'logs')}/RUN/STEP/SAMPLE/")
    settings = Path(call.options["folder"]) / SETTINGS
    data("Look around, for example:")
    for verb in ("status", f"logs {cohort.samples[-1]} pizzly", "runs", "report"):
        data(f"  {_this_program()} {verb} --config {settings}")


def _fusions(call: CommandCall, cohort: Cohort) -> list[tuple[object, ...]]:
    """Rows of all samples' fusion tables, best supported first within a sample; counts are numbers."""
    rows: list[tuple[object, ...]] = []
    for path in (_file(call.store, sample, "fusions.tsv") for sample in cohort.samples):
        if path is not None:
            with path.open(encoding="utf-8", newline="") as lines:
                for row in csv.DictReader(lines, delimiter="\t"):
                    cells = (row.get(column, "") for column in FUSION_COLUMNS)
                    rows.append(tuple(int(cell) if cell.isdecimal() else cell for cell in cells))
    return rows


def _file(store: Store, sample: str, ending: str) -> Path | None:
    """A sample's file of the last step; the demonstration reads it where it lies, or fetches it first."""
    from batch_pipeline.wire.store import NotInStore

    key = layout.result(STEP, sample, f"{sample}.{ending}")
    path = store.path_of(key)
    if path is not None:
        return path if path.is_file() else None
    try:
        content = store.get(key)
    except NotInStore:
        return None
    copy = Path(f"{sample}.{ending}").absolute()
    copy.write_bytes(content)
    return copy


def _this_program() -> str:
    """How this program was called, for people to call it again."""
    python, here = Path(sys.executable), Path.cwd()
    interpreter = python.relative_to(here) if python.is_relative_to(here) else python
    return f"{interpreter} {sys.argv[0]}"


def _spoken(store: Store, prefix: str) -> str:
    path = store.path_of(prefix)
    return str(path) if path is not None else store.url_of(prefix)


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options = [
        CommandOption("--folder", "Where the cohort and its store lie.", default="demo", show_default=True),
        CommandOption("--seed", "Seed of the simulation.", type=click.INT, default=1, show_default=True),
        CommandOption(
            "--simulated", "How many samples are simulated.", type=click.IntRange(2, 99), default=8, show_default=True
        ),
        CommandOption("--no-real", "Leave the real sample out; nothing is fetched.", is_flag=True),
    ]
    return command(
        "demo", workflow, argv, demo, [*common_options(), *run_options(), json_option(), yes_option(), *options]
    )
