"""Reads what a plan needs from the store, in LIST calls only: receipts, sources, references, live runs.

Of the steps of the graph and the samples of the request, as `records.listing` says: N samples x K steps cost at most
ceil(objects / 1000) LIST pages and one a range, and nothing a sample. Only a run that is live costs more: its
submissions are read to know which cells are on their way.

(A little longer than most modules: a third of it is where the files of samples lie.)
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from os.path import commonprefix
from typing import Final
from urllib.parse import unquote, urlsplit

from batch_pipeline.pipeline.choices import choices_of
from batch_pipeline.pipeline.columns import columns_of, named_files
from batch_pipeline.pipeline.plan import Inventory
from batch_pipeline.pipeline.rows import Rows
from batch_pipeline.pipeline.samples import Sample
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.pipeline.wiring import options_of
from batch_pipeline.pipeline.workflow import Graph, Source
from batch_pipeline.records.listing import CellFolders, FileKeys, by_place, entries_of
from batch_pipeline.records.receipts import Retirements, Standing, absent_reference, standing_receipts
from batch_pipeline.records.request import Request
from batch_pipeline.records.results import AT_ONCE, Cell, read_receipts
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse, StoreFailed
from batch_pipeline.wire.manifest import SourceFile
from batch_pipeline.wire.receipt import Receipt
from batch_pipeline.wire.store import FEW_NAMES, NotInStore, Store, StoreEntry, open_store

#: Cells whose results are compared with their receipts before those of others are listed.
CHECKED_AT_ONCE: Final = 1000


def choose_reference(request: Request, retirements: Retirements) -> tuple[str, Mapping[str, StoreEntry]]:
    """The reference's name and files. One LIST, none when no step uses one.

    Raises InvalidUse when the one that was named is not there, or not built since a run set out to build it again, and
    when none was named and the store holds several.
    """
    if not any(node.references for node in request.graph):
        return request.reference, {}
    entries_by_name: dict[str, dict[str, StoreEntry]] = {}
    for entry in request.store.list(layout.REFERENCES):
        _, name, *rest = entry.key.split("/", 2)
        if rest:
            entries_by_name.setdefault(name, {})[rest[0]] = entry
    name = request.reference
    if not name and len(entries_by_name) > 1:
        raise InvalidUse(
            f"The store holds several references ({', '.join(sorted(entries_by_name))}); choose with --reference."
        )
    if not name:
        name = next(iter(entries_by_name), "")
    elif name not in entries_by_name:
        there = (
            f"There are: {', '.join(sorted(entries_by_name))}."
            if entries_by_name
            else "It holds none; is it the right store?"
        )
        raise InvalidUse(
            f"There is no reference {name!r} in {request.store.url}. {there} To build it: reference {name}, with its"
            " files as options."
        )
    if run_id := absent_reference(request.store, retirements, name):
        raise InvalidUse(
            f"The reference {name!r} is not there since run {run_id} set out to build it again. Wait for that run, or"
            f" build it: reference {name}, with its files as options."
        )
    return name, entries_by_name.get(name, {})


def read_inventory(request: Request, references: Mapping[str, StoreEntry], retirements: Retirements) -> Inventory:
    """Everything but the live jobs. Raises InvalidSampleList for columns that break a rule, StoreFailed."""
    # Before anything is listed: a sheet with problems costs nothing.
    excluded: Mapping[str, AbstractSet[str]] = {}
    if any(node.when for node in request.graph):
        from batch_pipeline.pipeline.conditions import excluded_cells

        excluded = excluded_cells(request.graph, request.samples)
    columns = columns_of(request.graph, request.samples, excluded)
    rows: Mapping[str, Rows] = {}
    roles: Mapping[str, Sequence[str]] = {}
    if any(node.scope in (Scope.GROUP, Scope.PART) for node in request.graph):
        from batch_pipeline.pipeline.sheet_rows import rows_of_sheet

        rows, roles = rows_of_sheet(request.graph, request.samples)
    names = request.graph.names_by_step(request.samples.names, {step: one.names for step, one in rows.items()})
    standing = standing_receipts(request.store, retirements, names)
    problems: dict[Cell, str] = {}
    if request.check_results:
        standing, problems = _with_results(request, standing)
    receipts = {step: standing.counting.get(step, {}) for step in request.graph.names}
    gathered = _gathered(request, receipts) if request.selection.accept_code_changes else {}
    sources, absent = _sources(request, excluded)
    return Inventory(
        receipts=receipts,
        retired=standing.retired,
        untrue=standing.damaged,
        removed=standing.removed,
        problems=problems,
        gathered=gathered,
        sources=sources,
        excluded=excluded,
        absent=absent,
        rows=rows,
        roles=roles,
        columns=columns,
        references=references,
    )


def _with_results(request: Request, standing: Standing) -> tuple[Standing, dict[Cell, str]]:
    """The receipts whose results are there with the size that they name, the others as damaged; what was found of them.

    A GET a cell, and the listing of their results.
    """
    true: dict[str, dict[str, tuple[str, ...]]] = {}
    false = {step: dict(samples) for step, samples in standing.damaged.items()}
    problems: dict[Cell, str] = {}

    def checked(one: tuple[str, str, Mapping[str, int]]) -> tuple[str, str, tuple[str, ...], str]:
        step, sample, sizes = one
        fingerprints = standing.counting[step][sample]
        removed = standing.removed.get(step, {}).get(sample, {})
        return step, sample, fingerprints, _problem(request.store, step, sample, fingerprints, sizes, removed)

    results = _result_sizes(request, standing)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="results") as pool:
        while some := list(islice(results, CHECKED_AT_ONCE)):
            for step, sample, fingerprints, problem in pool.map(checked, some):
                (false if problem else true).setdefault(step, {})[sample] = fingerprints
                if problem:
                    problems[step, sample] = problem
    return replace(standing, counting=true, damaged=false), problems


def _result_sizes(request: Request, standing: Standing) -> Iterator[tuple[str, str, Mapping[str, int]]]:
    """Step and sample of each cell that has a receipt, with the bytes of the files in its folder of results, by key."""
    builders = [node.name for node in request.graph if node.step.scope is Scope.REFERENCE]
    counting = {step: standing.counting.get(step, {}) for step in request.graph.names}
    folders: dict[str, Collection[str]] = {
        layout.REFERENCES: {name for step in builders for name in counting[step]},
        layout.GATHERED: [step for step in request.graph.names if layout.COHORT in counting[step]],
    }
    for step, samples in counting.items():
        if step not in builders:
            folders[layout.step_results(step)] = samples.keys() - {layout.COHORT}
    seen: set[Cell] = set()
    cells = CellFolders(folders)
    for group in by_place(cells, entries_of(request.store, cells, etags=False)):
        cell = layout.cell_of_result(group[0].key)
        sizes = {entry.key: entry.size_bytes for entry in group}
        for step, sample in [cell] if cell else [(step, group[0].key.split("/")[1]) for step in builders]:
            if sample in counting[step]:
                seen.add((step, sample))
                yield step, sample, sizes
    for step, samples in counting.items():
        yield from ((step, sample, {}) for sample in samples if (step, sample) not in seen)


def _problem(
    store: Store,
    step: str,
    name: str,
    fingerprints: Sequence[str],
    sizes: Mapping[str, int],
    removed: Mapping[str, AbstractSet[str]],
) -> str:
    """What is wrong with a cell's results, those aside that were removed after use (fingerprint -> ports).

    Of two receipts nobody knows which is right.
    """
    for fingerprint in fingerprints if len(fingerprints) == 1 else ():
        try:
            receipt = Receipt.from_json(json.loads(store.get(layout.receipt(step, name, fingerprint))))
        except NotInStore:
            continue
        except (ValueError, TypeError, AttributeError, KeyError):
            return "its receipt cannot be read"
        for output in receipt.outputs:
            size_bytes = sizes.get(output.key)
            if output.port in removed.get(fingerprint, ()):
                continue
            if size_bytes is None:
                return f"{output.key} was removed"
            if size_bytes != output.size_bytes:
                return f"{output.key} has {size_bytes:,} bytes instead of {output.size_bytes:,}"
    return ""


def _gathered(request: Request, receipts: Mapping[str, Mapping[str, tuple[str, ...]]]) -> dict[str, frozenset[str]]:
    """Gather -> samples that its one receipt names as read. A GET a gather."""
    steps = {node.name for node in request.graph if node.scope is not Scope.COHORT}
    gathered = {}
    for node in request.graph:
        fingerprints = receipts[node.name].get(layout.COHORT, ())
        if len(fingerprints) != 1:
            continue
        for receipt in read_receipts(request.store, [layout.receipt(node.name, layout.COHORT, fingerprints[0])]):
            cells = (layout.cell_of_result(record.key) for record in receipt.inputs)
            gathered[node.name] = frozenset(cell[1] for cell in cells if cell and cell[0] in steps)
    return gathered


def _sources(
    request: Request, excluded: Mapping[str, AbstractSet[str]]
) -> tuple[dict[str, dict[str, tuple[SourceFile, ...]]], dict[str, str]]:
    """Files of every sample's source ports, and sentences about those that are not there."""
    ports = _source_ports(request.graph)
    if not ports:
        return {}, {}
    unread = _unread_sources(request, excluded)
    urls_by_sample: dict[str, dict[str, list[str]]] = {}
    for sample in request.samples:
        urls_by_sample[sample.name] = {
            key: _places(sample, source, port, request)
            for key, (port, source) in ports.items()
            if sample.name not in unread[key]
        }
    entries = _SourceFinder(request.store)
    entries.find({url for files in urls_by_sample.values() for urls in files.values() for url in urls})
    entries.find_instead(_beside_sheet(request, [source for _, source in ports.values()]))
    optional = {f"{node.name}.{port}" for node in request.graph for port in node.optional}
    needed = [key for key, (_, source) in ports.items() if not source.files and key not in optional]
    sources: dict[str, dict[str, tuple[SourceFile, ...]]] = {}
    absent: dict[str, str] = {}
    for sample in request.samples:
        name, files = sample.name, urls_by_sample[sample.name]
        files_by_port = {key: [entries.files.get(url) for url in urls] for key, urls in files.items()}
        if all(items and all(items) for items in files_by_port.values()):
            sources[name] = {key: tuple(filter(None, items)) for key, items in files_by_port.items()}
            continue
        # Of an optional port of which no file is there, none is missing.
        files_by_port |= {key: [] for key, items in files_by_port.items() if key in optional and not any(items)}
        missing = [url for key in files for url, file in zip(files[key], files_by_port[key], strict=False) if not file]
        if missing:
            where = _where_named(missing[0], sample, ports, request)
            absent[name] = (
                f"Its source {entries.display_name(missing[0])} is not there{where}; check the list and --sources."
            )
        elif unnamed := next((key for key in needed if key in files and not files[key]), ""):
            columns, line = " or ".join(map(repr, ports[unnamed][1].all_columns)), sample.line
            absent[name] = f"Its source is not named: line {line} of {request.samples.origin} has no {columns}."
        sources[name] = {key: tuple(f for f in items if f) for key, items in files_by_port.items() if all(items)}
    return sources, absent


def _unread_sources(request: Request, excluded: Mapping[str, AbstractSet[str]]) -> dict[str, set[str]]:
    """Port key of a source -> samples that read an alternative before it, or for which the step is not there."""
    unread: dict[str, set[str]] = {}
    for node in request.graph:
        choices = choices_of(request.graph, node, request.samples.names, excluded)
        for port in node.sources:
            last = len(options_of(node.inputs[port])) - 1
            chosen = choices.by_port.get(port, ()) if choices else ()
            names = {name for name, at in zip(request.samples.names, chosen, strict=False) if at != last}
            unread[f"{node.name}.{port}"] = names | excluded.get(node.name, frozenset())
    return unread


def _source_ports(graph: Graph) -> dict[str, tuple[str, Source]]:
    return {f"{node.name}.{port}": (port, source) for node in graph for port, source in node.sources.items()}


def _places(sample: Sample, source: Source, port: str, request: Request) -> list[str]:
    """Where a sample's files lie: keys of the store or URLs."""
    if port in request.reference_files:
        return [request.reference_files[port]]
    if source.all_columns and (names := [name for _, _, name in named_files(source, sample)]):
        return [_place(name, request.sources) for name in names]
    return [_place(file.replace("{sample}", sample.name), request.sources) for file in source.files]


def _beside_sheet(request: Request, sources: Iterable[Source]) -> dict[str, str]:
    """Place of a relative name in the sheet -> its place in the sheet's folder, where it is looked for too."""
    folder = request.sheet_folder
    if folder is None:
        return {}
    named = [source for source in sources if source.all_columns]
    names = {name for source in named for sample in request.samples for _, _, name in named_files(source, sample)}
    relative = [name for name in names if "://" not in name and not name.startswith("/")]
    return {_place(name, request.sources): other for name in relative if (other := _beside(name, folder))}


def _beside(name: str, folder: str) -> str:
    """The place of a relative name in a folder, without `..`; empty where that leads out of a bucket or store."""
    scheme, separator, path = folder.rpartition("://")
    below = posixpath.normpath(f"{path}/{name}" if path else name)
    bucket = f"{path.partition('/')[0]}/" if separator else ""
    return "" if below.startswith("..") or not below.startswith(bucket) else _place(f"{scheme}{separator}{below}", "")


def _where_named(url: str, sample: Sample, ports: Mapping[str, tuple[str, Source]], request: Request) -> str:
    """Where the sheet names a file, for people; empty where it does not."""
    for _, source in ports.values():
        for row, column, name in named_files(source, sample):
            if _place(name, request.sources) == url:
                is_relative = "://" not in name and not name.startswith("/")
                beside = is_relative and request.sheet_folder is not None
                also = ", nor in the folder of the sheet" if beside else ""
                return f"{also} (column {column!r}, line {row.line} of {request.samples.origin})"
    return ""


def _place(name: str, prefix: str) -> str:
    if "://" in name:
        return name
    place = f"{prefix.rstrip('/')}/{name}" if prefix and not name.startswith("/") else name
    # These would end the path of a URL.
    return f"file://{place.replace('?', '%3F').replace('#', '%23')}" if place.startswith("/") else place


class _SourceFinder:
    """Finds files by listing them where they lie; local files elsewhere are simply looked at."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.files: dict[str, SourceFile] = {}

    def find(self, urls: Iterable[str]) -> None:
        """Fills `files` with those that are there. Raises StoreFailed when a place cannot be listed."""
        keys: set[str] = set()
        folders: dict[str, set[str]] = {}
        last, wanted = None, set[str]()
        for url in urls:
            folder = url.rpartition("/")[0]
            if folder != last:
                last, wanted = folder, folders.setdefault(folder, set())
            wanted.add(url)
        for folder in [one for one in folders if "://" not in one]:
            wanted = folders.pop(folder)
            # Else they are no keys of the store; the sheet's folder may have them.
            if not folder or {"", ".", ".."}.isdisjoint(folder.split("/")):
                keys |= wanted
        self._list(self._store, "", keys)
        for folder, wanted in _joined(folders).items():
            if folder.startswith("file://"):
                self._stat(wanted)
            else:
                self._list(self._store.beside(folder), f"{folder}/", {url[len(folder) + 1 :] for url in wanted})

    def find_instead(self, places: Mapping[str, str]) -> None:
        """Takes files from their second places that are not at the first ones. Raises as `find`."""
        second = {first: other for first, other in places.items() if first not in self.files}
        self.find(set(second.values()))
        self.files |= {first: self.files[other] for first, other in second.items() if other in self.files}

    def display_name(self, url: str) -> str:
        """A place as a person would look for it."""
        return url if "://" in url else unquote(self._store.url_of(url).removeprefix("file://"))

    def _list(self, store: Store, before: str, keys: AbstractSet[str]) -> None:
        for group in entries_of(store, FileKeys(keys)):
            for entry in group:
                url = f"{before}{entry.key}"
                self.files[url] = SourceFile(url=url, etag=entry.etag, size_bytes=entry.size_bytes)

    def _stat(self, wanted: Sequence[str] | set[str]) -> None:
        for url in wanted:
            folder, _, name = unquote(urlsplit(url).path).rpartition("/")
            try:
                entry = open_store(folder or "/").head(name)
            except NotInStore:
                continue
            except StoreFailed as error:
                if "is not there" in error.message:
                    continue
                raise
            self.files[url] = SourceFile(url=url, etag=entry.etag, size_bytes=entry.size_bytes)


def _joined(folders: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """URLs by the folder to list: where a bucket has more than a few, as one a sample, by the one that holds them."""
    by_bucket: dict[str, list[str]] = {}
    for folder in folders:
        by_bucket.setdefault("/".join(folder.split("/", 3)[:3]), []).append(folder)
    joined: dict[str, set[str]] = {}
    for bucket, some in by_bucket.items():
        # Not `commonpath`: it takes one slash out of `s3://`.
        whole = commonprefix([f"{folder}/" for folder in some]).rpartition("/")[0]  # noqa: RUF071
        for folder in some:
            place = whole if bucket.startswith("s3://") and len(some) > FEW_NAMES else folder
            joined.setdefault(place, set()).update(folders[folder])
    return joined
