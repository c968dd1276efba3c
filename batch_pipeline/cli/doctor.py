"""`doctor`: looks at everything that a run needs, and tells all that is wrong at once, each with its remedy.

(A little longer than most modules: a check a function.)
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.installation import install_command
from batch_pipeline.cli.options import (
    CommandOption,
    common_options,
    json_option,
    parameter_options,
    pipeline_options,
    run_options,
)
from batch_pipeline.cli.output import data, print_json
from batch_pipeline.pipeline.workflow import tasks_of
from batch_pipeline.run.preflight import Finding
from batch_pipeline.wire.contract import CommandExit, Variable
from batch_pipeline.wire.errors import BackendFailed, BatchPipelineError
from batch_pipeline.wire.scratch import (
    Scratch,
    folder_beside,
    left_by_earlier_versions,
    own_folder,
    require_private,
    scratch_root,
    sweep,
)
from batch_pipeline.wire.toolchain import Toolchain

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask

OLDEST_PYTHON: Final = (3, 11)
PACKAGES: Final = ("boto3", "click", "luigi", "obstore", "pydantic", "rich", "sciluigi", "sh", "tornado", "ulid")
#: Less than this, in bytes, is told: one human sample's FASTQ files alone are larger.
LOW_SPACE: Final = 5 * 1024**3


def doctor(call: CommandCall) -> int:
    """Checks Python, packages, tools, store, scratch, disk, backend and scheduler, and what a run would need now.

    It warns of a store's folder that is not there yet, of output ports that no step reads, of parameters without use,
    and of images without a digest. On AWS it also checks the identity, queues, compute environments, roles, images
    and log groups. Ends with 1 when something is wrong. With --clean it removes what attempts that were killed left
    in the scratch of this machine, and the widths (`max_parallel`) that killed drivers left on the backend.
    """
    by_check = [_guarded(name, check, call) for name, check in CHECKS.items()]
    reported = _once(finding for of_check in by_check for finding in of_check)
    if call.json:
        from batch_pipeline.report.records import plain

        print_json(plain(reported))
    else:
        for finding in reported:
            data(f"{_mark(finding)} {finding.check}: {finding.sentence}")
            if finding.remedy:
                data(f"       {finding.remedy}")
    return CommandExit.DONE if all(finding.ok for finding in reported) else CommandExit.FAILED


def _mark(finding: Finding) -> str:
    return "warn" if finding.warns else "ok  " if finding.ok else "BAD "


def _once(findings: Iterable[Finding]) -> list[Finding]:
    """The findings without what another check has stumbled over before."""
    by_sentence: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        is_error = not finding.ok and not finding.remedy
        by_sentence.setdefault(("" if is_error else finding.check, finding.sentence), finding)
    return list(by_sentence.values())


def _guarded(name: str, check: Callable[[CommandCall], Iterator[Finding]], call: CommandCall) -> list[Finding]:
    """A check's findings; an error that it raises is one."""
    try:
        return list(check(call))
    except BatchPipelineError as error:
        return [Finding(check=name, ok=False, sentence=error.message)]


def _python(call: CommandCall) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    new_enough = sys.version_info >= OLDEST_PYTHON
    oldest = ".".join(map(str, OLDEST_PYTHON))
    remedy = "" if new_enough else f"Install Python {oldest} or newer."
    yield Finding(check="python", ok=new_enough, sentence=f"{version} ({sys.executable})", remedy=remedy)


def _packages(call: CommandCall) -> Iterator[Finding]:
    # `sh` replaces itself in sys.modules and has no spec from then on.
    absent = [name for name in PACKAGES if name not in sys.modules and find_spec(name) is None]
    if absent:
        remedy = f"Install the client's packages: {install_command('client')}."
        yield Finding(check="packages", ok=False, sentence=f"{', '.join(absent)} cannot be found.", remedy=remedy)
    else:
        yield Finding(check="packages", ok=True, sentence=f"all {len(PACKAGES)} are there")


def _tools(call: CommandCall) -> Iterator[Finding]:
    """Tools that the steps' classes name (`tools = ("kallisto",)`), where jobs look; containers have their own."""
    settings = call.settings
    if not call.has_pipeline or settings.backend.name != "embedded" or settings.embedded.container:
        return
    classes = [type(node.step) for node in call.graph]
    if call.workflow.reference_builder is not None:
        classes.append(call.workflow.reference_builder)
    wanted = {tool: step.__name__ for step in reversed(classes) for tool in getattr(step, "tools", ())}
    path = Toolchain.of_this_process().path
    for tool, step in sorted(wanted.items()):
        place = shutil.which(tool, path=path)
        remedy = "" if place else f"Install it; step {step} runs it. {_packages_of(tool)}"
        yield Finding(check="tool", ok=place is not None, sentence=f"{tool}: {place or 'not found'}", remedy=remedy)


def _packages_of(tool: str) -> str:
    """How Debian and bioconda, which needs no root, call the package of a tool."""
    debian = {"PicardCommandLine": "picard-tools", "java": "default-jre-headless"}.get(tool, tool)
    bioconda = {"PicardCommandLine": "picard", "java": "openjdk"}.get(tool, tool)
    return f"On Debian: apt-get install {debian}; without root: conda install -c conda-forge -c bioconda {bioconda}"


def _pipeline(call: CommandCall) -> Iterator[Finding]:
    if call.has_pipeline:
        yield Finding(check="pipeline", ok=True, sentence=f"{call.graph.name}: {' -> '.join(call.graph.names)}")


def _lint(call: CommandCall) -> Iterator[Finding]:
    """What may be a mistake in the pipeline and stops no run."""
    from batch_pipeline.config import place_of_setting
    from batch_pipeline.pipeline.lint import lint

    warnings = lint(call.graph, place_of_setting=partial(place_of_setting, call.settings)) if call.has_pipeline else ()
    for warning in warnings:
        yield Finding(check="lint", ok=True, sentence=warning, warns=True)


def _samples(call: CommandCall) -> Iterator[Finding]:
    if call.has_pipeline and call.settings.samples.file:
        yield Finding(check="samples", ok=True, sentence=f"{len(call.samples):,} in {call.samples.origin}")


def _store(call: CommandCall) -> Iterator[Finding]:
    store = call.planned_store
    folder = store.folder
    if folder is not None and not folder.is_dir():
        yield Finding(check="store", ok=True, sentence=f"{folder} is not there yet; `run` makes the folder", warns=True)
        return
    if folder is not None and not os.access(folder, os.W_OK | os.X_OK):
        remedy = "Change its rights, or choose another with --store or --bucket-name."
        yield Finding(check="store", ok=False, sentence=f"{folder} may not be written.", remedy=remedy)
        return
    key = f"doctor/{os.getpid()}"
    store.put(key, b"")
    store.delete([key])
    yield Finding(check="store", ok=True, sentence=f"{store.url} can be read and written")


def _scratch(call: CommandCall) -> Iterator[Finding]:
    """Whether attempts could work on this machine, beside those of its other users; tried."""
    if call.settings.backend.name != "embedded":
        return
    root = scratch_root(os.environ)
    if call.options["clean"]:
        removed = sweep(root)
        yield Finding(check="scratch", ok=True, sentence=f"{len(removed)} left by killed processes, removed")
    try:
        Scratch(root).close()
        own = own_folder(root)
    except OSError as error:
        remedy = f"Set {Variable.SCRATCH} or TMPDIR to a folder that you may write to."
        yield Finding(check="scratch", ok=False, sentence=f"{root}: {error.strerror}.", remedy=remedy)
        return
    yield Finding(check="scratch", ok=True, sentence=f"{own} is yours alone and can be written")
    if earlier := left_by_earlier_versions(root):
        remedy = f"When nothing of theirs runs: rm -r {' '.join(map(shlex.quote, earlier))}"
        yield Finding(check="scratch", ok=True, sentence="earlier versions left folders here", remedy=remedy)


def _state(call: CommandCall) -> Iterator[Finding]:
    """Whether the folders of state, where they are, are this user's alone."""
    state = call.settings.embedded.folder
    for folder in filter(Path.exists, (state, folder_beside(state, "pools"), folder_beside(state, "luigid"))):
        require_private(folder.resolve(), "Name another state folder (embedded.state)")
    yield Finding(check="state", ok=True, sentence=f"{state} is yours alone")


def _space(call: CommandCall) -> Iterator[Finding]:
    settings = call.settings
    if settings.backend.name == "embedded":
        yield _space_of("scratch", Path(scratch_root(os.environ)))
    if "://" not in settings.store_location:
        yield _space_of("store", Path(settings.store_location))


def _space_of(what: str, folder: Path) -> Finding:
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    enough = free >= LOW_SPACE
    remedy = "" if enough else "Free some space, or choose a folder on another disk."
    return Finding(check=f"disk of the {what}", ok=enough, sentence=f"{free / 1024**3:.1f} GiB free", remedy=remedy)


def _backend(call: CommandCall) -> Iterator[Finding]:
    from batch_pipeline import backends

    backend = backends.create(call.settings)
    try:
        backend.find("doctor", call.settings.backend.queue)
    finally:
        backend.close()
    yield Finding(check="backend", ok=True, sentence=f"{call.settings.backend.name} answers")


def _widths(call: CommandCall) -> Iterator[Finding]:
    """Widths of steps (consumable resources) that drivers of this store left; a run removes its own at its end."""
    from batch_pipeline import backends
    from batch_pipeline.report.tables import counted
    from batch_pipeline.run.widths import left_over, remove_left_over

    backend = backends.create(call.settings)
    try:
        if call.options["clean"]:
            removed = remove_left_over(call.planned_store, backend)
            if removed:
                yield Finding(check="width", ok=True, sentence=f"{', '.join(removed)} removed")
        elif names := list(left_over(call.planned_store, backend)):
            sentence = f"{counted(len(names), 'width')} left by runs that have ended: {', '.join(names)}"
            yield Finding(check="width", ok=True, sentence=sentence, remedy="Remove them: doctor --clean", warns=True)
    except BackendFailed as error:
        # Of the backend itself another check tells; this identity may lack the right to list them.
        yield Finding(check="width", ok=True, sentence=f"not checked: {error.message}")
    finally:
        backend.close()


def _run(call: CommandCall) -> Iterator[Finding]:
    """What a run would need now; without a sample list, what every run of the pipeline needs."""
    from batch_pipeline import backends
    from batch_pipeline.backends.account import Inspectable
    from batch_pipeline.backends.definitions import configured_definitions
    from batch_pipeline.report.tables import counted
    from batch_pipeline.run.driver import Driver
    from batch_pipeline.run.preflight import account_findings, preflight

    settings = call.settings
    backend = backends.create(settings)
    try:
        if call.has_pipeline and settings.samples.file:
            request = call.request(plans=True)
            snapshot = Driver(request, backend).inspect()
            needs = preflight(request, backend, snapshot.plan, reference=snapshot.reference)
            if not any(finding.check == "limits" for finding in needs):
                jobs = counted(len(snapshot.plan.jobs), "job")
                yield Finding(check="plan", ok=True, sentence=f"{jobs} to send, within what AWS takes")
            yield from needs
        elif settings.backend.name != "embedded" and isinstance(backend, Inspectable):
            definitions = configured_definitions(call.graph, settings) if call.has_pipeline else {}
            yield from account_findings(backend.account, settings, definitions)
    finally:
        backend.close()


def _scheduler(call: CommandCall) -> Iterator[Finding]:
    luigi = call.settings.luigi
    if not luigi.scheduler_host:
        return
    from batch_pipeline.luigi_adapter import scheduler

    url = scheduler.scheduler_url(luigi.scheduler_host, luigi.scheduler_port)
    there = scheduler.connection_error(url) is None
    sentence = f"luigid at {url} {'answers' if there else 'does not answer'}"
    remedy = "" if there else "Start one with the verb ui, or leave --scheduler-host away."
    yield Finding(check="scheduler", ok=there, sentence=sentence, remedy=remedy)


CHECKS: Final[dict[str, Callable[[CommandCall], Iterator[Finding]]]] = {
    "python": _python,
    "packages": _packages,
    "pipeline": _pipeline,
    "lint": _lint,
    "tool": _tools,
    "samples": _samples,
    "store": _store,
    "scratch": _scratch,
    "state": _state,
    "disk": _space,
    "backend": _backend,
    "width": _widths,
    "run": _run,
    "scheduler": _scheduler,
}


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    clean = CommandOption(
        "--clean", "Remove the scratch of killed attempts and the widths of killed drivers.", is_flag=True
    )
    options = [*common_options(), json_option(), *pipeline_options(), *run_options(), clean]
    if workflow is not None:
        options += parameter_options(tasks_of(workflow), options)
    return command("doctor", workflow, argv, doctor, options)
