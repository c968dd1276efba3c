"""What a command is called with: its options, and from them the settings, store, samples, graph and request.

Each is made at its first use, once: `logs` reads no sample list, `--help` opens no store. `command` puts a verb's
body and options together.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batch_pipeline.cli.options import HEADINGS, OPTIONS, settings_of
from batch_pipeline.config import Settings, load_settings, place_of_setting
from batch_pipeline.pipeline.step import Parameter
from batch_pipeline.pipeline.workflow import REFERENCE_TASK, Graph, WorkflowTask, tasks_of
from batch_pipeline.wire.errors import InvalidSampleList, InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.cli.events import CommandEvents
    from batch_pipeline.pipeline.plan import Selection
    from batch_pipeline.pipeline.samples import SampleList
    from batch_pipeline.records.request import Request
    from batch_pipeline.wire.s3 import S3Access
    from batch_pipeline.wire.store import Store

T = TypeVar("T")


class CommandCall:
    """One call of a command."""

    def __init__(self, workflow: type[WorkflowTask] | None, argv: Sequence[str], options: Mapping[str, Any]) -> None:
        self._workflow = workflow
        self.argv = tuple(argv)
        self.options = options

    @property
    def verbose(self) -> bool:
        """Whether `--verbose` was given."""
        return bool(self.options.get("verbose"))

    @property
    def json(self) -> bool:
        """Whether `--json` was given."""
        return bool(self.options.get("json"))

    @property
    def has_pipeline(self) -> bool:
        """Whether the command belongs to a pipeline's file."""
        return self._workflow is not None

    @property
    def workflow(self) -> type[WorkflowTask]:
        """The pipeline. Raises InvalidUse when there is none."""
        if self._workflow is None:
            raise InvalidUse(
                "This needs a pipeline. Run it with the pipeline's file: python main.py VERB. `batch-pipeline init"
                " NAME` writes one."
            )
        return self._workflow

    @cached_property
    def settings(self) -> Settings:
        """The settings. Raises InvalidConfig."""
        config = self.options.get("config")
        return load_settings(settings_of(self.options), config=Path(config) if config else None)

    @cached_property
    def events(self) -> CommandEvents:
        """What writes the command's events and notifies of its end, where that is wanted."""
        from batch_pipeline.cli.events import CommandEvents

        return CommandEvents(self)

    @cached_property
    def reach(self) -> Callable[[], S3Access]:
        """How S3 is reached; botocore is loaded no sooner than a store in S3 is opened."""
        from batch_pipeline.backends.credentials import reach_of

        return reach_of(self.settings)

    @cached_property
    def store(self) -> Store:
        """The store; it must be there. Raises StoreFailed."""
        return self._opened(create=False)

    @cached_property
    def new_store(self) -> Store:
        """The store of a command that writes: a folder is made when it is not there, and those above it."""
        return self._opened(create="://" not in self.settings.store_location)

    @cached_property
    def planned_store(self) -> Store:
        """The store of a command that only plans: a folder that is not there before the first run is empty."""
        return self._opened(create=False, absent_is_empty=True)

    @cached_property
    def graph(self) -> Graph:
        """The pipeline's graph under the name it was given. Raises InvalidPipeline, InvalidConfig."""
        params = dict(self.settings.params)
        builder = self.workflow.reference_builder
        steps = {name for task in tasks_of(self.workflow).values() for name in task.step_class.declared(Parameter)}
        if builder is not None:
            # They stand in the same settings file and mean the `reference` verb.
            of_builder = {*builder.declared(Parameter)} - steps
            of_builder |= {f"{REFERENCE_TASK}.{name}" for name in builder.declared(Parameter)}
            params = {name: params[name] for name in params if name not in of_builder}
        graph = Graph.of(self.workflow, params, lambda option: place_of_setting(self.settings, f"params.{option}"))
        if self.settings.steps:
            from batch_pipeline.pipeline.resources import with_step_settings

            graph = with_step_settings(
                graph,
                self.settings.steps,
                place_of=partial(place_of_setting, self.settings),
                also_known=(REFERENCE_TASK,) if builder is not None else (),
            )
        if self.settings.uses_containers:
            from batch_pipeline.pipeline.images import with_image, with_pinned_images

            pooled, image = self.settings.pool.pilots, self.settings.pool.image
            graph = with_image(graph, image) if pooled and image else with_pinned_images(graph)
        return replace(graph, name=self.settings.pipeline.name or graph.name)

    @cached_property
    def samples(self) -> SampleList:
        """The sample list. Raises InvalidSampleList."""
        from batch_pipeline.pipeline.samples import read_samples

        file = self.settings.samples.file
        if not file:
            raise InvalidSampleList("No sample list was given. Name one: --sample-list-file FILE.")
        # The store is asked only for a list that is not here: a folder of the store's may not be there yet.
        store = None if Path(file).exists() or "://" in file else self._store_if_there()
        return read_samples(file, store, self.reach, lanes=self.workflow.lanes)

    def request(self, *, writes: bool = False, plans: bool = False) -> Request:
        """All that a driver needs. A request that `plans` takes a missing folder as an empty store.

        Raises what its parts raise, cheapest first.
        """
        from batch_pipeline.records.request import Request

        settings, graph, samples = self.settings, self.graph, self.samples
        store = self.new_store if writes else self.planned_store if plans else self.store
        return Request(
            workflow=self.workflow,
            graph=graph,
            samples=samples,
            store=store,
            settings=settings,
            selection=self.selection(),
            reference=settings.pipeline.reference,
            sources=self._sources(store),
            sheet_folder=None if "samples.sources" in settings.origins else samples.folder,
            check_results=settings.pipeline.check_results,
            share_steps=bool(self.options.get("share_steps")),
            argv=self.argv,
            description=settings.pipeline.description,
        )

    def selection(self) -> Selection:
        """The cells that the options choose; `--failed` apart. Raises InvalidUse for an unknown step or sample."""
        from batch_pipeline.pipeline.plan import Selection

        return Selection(
            samples=self._chosen_samples(),
            steps=self._chosen_steps(),
            force=bool(self.options.get("force")),
            accept_code_changes=bool(self.options.get("accept_code_changes")),
            min_success=self.settings.pipeline.min_success,
        )

    def _sources(self, store: Store) -> str:
        """The sources' prefix; a folder here that the store does not have is meant as such."""
        sources = self.settings.samples.sources
        local = Path(sources).expanduser()
        in_store = store.folder is not None and (store.folder / sources).is_dir()
        is_here = sources.startswith((".", "~")) or (store.folder is not None and not in_store and local.is_dir())
        return str(local.absolute()) if sources and "://" not in sources and is_here else sources

    def _chosen_steps(self) -> frozenset[str] | None:
        first, only = self.options.get("from_step"), self.options.get("only_step") or ()
        if first and only:
            raise InvalidUse("--from-step and --only-step exclude each other. Give one of them.")
        if first:
            return self.graph.downstream(known(first, self.graph.names, "step"))
        return frozenset(known(step, self.graph.names, "step") for step in only) or None

    def _chosen_samples(self) -> frozenset[str] | None:
        names = [name for text in self.options.get("samples") or () for name in names_in(text)]
        return frozenset(known(name, self.samples.by_name, "sample") for name in names) if names else None

    def _store_if_there(self) -> Store | None:
        from batch_pipeline.wire.errors import StoreFailed

        try:
            return self.store
        except StoreFailed:
            return None

    def _opened(self, *, create: bool, absent_is_empty: bool = False) -> Store:
        from batch_pipeline.wire.store import open_store

        location = self.settings.store_location
        return open_store(location, create=create, absent_is_empty=absent_is_empty, reach=self.reach)


def known(name: str, names: Sequence[str] | Mapping[str, Any], kind: str) -> str:
    """The name, if it is one of the names. Raises InvalidUse with the nearest one."""
    if name in names:
        return name
    near = difflib.get_close_matches(name, list(names)[:10_000], n=1, cutoff=0.7)
    some = ", ".join(list(names)[:10]) + (", …" if len(names) > 10 else "")
    raise InvalidUse(
        f"There is no {kind} {name!r}. " + (f"Did you mean {near[0]!r}?" if near else f"There are: {some or 'none'}.")
    )


def names_in(text: str) -> list[str]:
    """`a,b` or the lines of `@file`."""
    if text.startswith("@"):
        from batch_pipeline.pipeline.samples import read_samples

        return list(read_samples(text[1:], lanes=True).names)
    return [name.strip().removesuffix(".bam") for name in text.split(",") if name.strip()]


class Verb(click.Command):
    """A command whose help groups its options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """What the verb does first, what it is set by last."""
        for heading in HEADINGS:
            options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
            shown = [option for option in options if getattr(option, "heading", OPTIONS) == heading]
            records = [record for option in shown if (record := option.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def _require_working_directory() -> None:
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise InvalidUse("The working directory is not there any more. Change into another one: cd.") from error


def command(
    name: str,
    workflow: type[WorkflowTask] | None,
    argv: Sequence[str],
    body: Callable[[CommandCall], int],
    params: Sequence[click.Parameter],
    *,
    epilog: str = "",
) -> click.Command:
    """A verb. Its help is the body's docstring."""

    def callback(**options: Any) -> int:
        from batch_pipeline import log

        log.set_up(verbose=bool(options.get("verbose")))
        _require_working_directory()
        log_file = options.get("log_file")
        with log.also_to(Path(log_file) if log_file else None):
            return body(CommandCall(workflow, argv, options))

    return Verb(
        name,
        params=list(params),
        callback=callback,
        help=body.__doc__,
        epilog=epilog,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
