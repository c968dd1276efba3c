"""Lists receipts and tells which of them count: not those that are cut off, nor those that a run retired.

A run that makes cells again first writes down the receipts of these cells, and of all below them, in one object, before
its first SubmitJob (`pipeline.retiring` decides which, `wire.retirement` has the form). So it is seen by what is there
that these cells are not done, wherever the run was killed. The object goes when nothing that it names stands any more.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final

from batch_pipeline.pipeline.plan import CellState, Inventory, Plan, Retired
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.records.listing import CellFolders, entries_of
from batch_pipeline.records.whole_store import receipt_entries
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import StoreFailed
from batch_pipeline.wire.retirement import Retirement
from batch_pipeline.wire.store import NotInStore, Store, StoreEntry

#: What is shorter was cut off, by a loss of power say: every version's receipts have more bytes than so many.
LEAST_BYTES: Final = 300


@dataclass(frozen=True, kw_only=True)
class Retirements:
    """All that runs have retired in a store, whether it stands or not."""

    #: Key and version of a receipt -> by whom.
    receipts: Mapping[tuple[str, str], Retired] = field(default_factory=dict)
    #: Name of a reference -> the builder's step and the run that set out to build it again.
    references: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The receipts in a store, step -> sample -> …"""

    #: Fingerprints of those that count.
    counting: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    #: Fingerprint -> why it does not.
    retired: dict[str, dict[str, dict[str, Retired]]] = field(default_factory=dict)
    #: Fingerprints of those that are cut off.
    damaged: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    #: Fingerprint -> ports whose temporary files were removed after use, whether or not its receipt stands.
    removed: dict[str, dict[str, dict[str, set[str]]]] = field(default_factory=dict)


def read_retirements(store: Store) -> Retirements:
    """All that is retired. One LIST, and a GET for each run of whose cells some are not made yet.

    Raises StoreFailed, also for a list that a later version wrote.
    """
    return _merged(_lists(store).values())


def standing_receipts(
    store: Store, retirements: Retirements, samples_by_step: Mapping[str, Collection[str]]
) -> Standing:
    """The receipts of these cells, told apart. One LIST where there are few, else as `records.listing` says."""
    entries = _entries(store, samples_by_step, etags=bool(retirements.receipts))
    return _standing(store, retirements, entries)


def counting_receipts(
    store: Store, retirements: Retirements, samples_by_step: Mapping[str, Collection[str]]
) -> Iterator[tuple[str, str, str]]:
    """Step, sample and fingerprint of the receipts of these cells that count, as they are listed."""
    entries = _entries(store, samples_by_step, etags=bool(retirements.receipts))
    for entry in chain.from_iterable(entries):
        cell = layout.cell_of_receipt(entry.key)
        if cell is None or entry.size_bytes < LEAST_BYTES:
            continue
        if not retirements.receipts or (entry.key, store.version(entry)) not in retirements.receipts:
            yield cell


def all_standing_receipts(store: Store, retirements: Retirements, prefix: str = layout.RECEIPTS) -> Standing:
    """All receipts below a prefix, `receipts/` or a step's, told apart; listed as `records.whole_store` says."""
    return _standing(store, retirements, receipt_entries(store, prefix, etags=bool(retirements.receipts)))


def _standing(store: Store, retirements: Retirements, entries: Iterable[Iterable[StoreEntry]]) -> Standing:
    standing = Standing()
    retired_by_version = retirements.receipts
    for entry in chain.from_iterable(entries):
        key, size_bytes, _ = entry
        cell = layout.cell_of_receipt(key)
        if cell is None:
            if removal := layout.port_of_removal(key):
                step, sample, fingerprint, port = removal
                by_sample = standing.removed.setdefault(step, {})
                by_sample.setdefault(sample, {}).setdefault(fingerprint, set()).add(port)
            continue
        step, sample, fingerprint = cell
        retired = retired_by_version.get((key, store.version(entry))) if retired_by_version else None
        if retired is not None:
            standing.retired.setdefault(step, {}).setdefault(sample, {})[fingerprint] = retired
            continue
        by_step = standing.counting if size_bytes >= LEAST_BYTES else standing.damaged
        if step not in by_step:
            by_step[step] = {}
        samples = by_step[step]
        samples[sample] = (*samples[sample], fingerprint) if sample in samples else (fingerprint,)
    return standing


def retire(
    store: Store, run_id: str, plan: Plan, reading: Mapping[str, AbstractSet[str] | None]
) -> dict[str, dict[str, dict[str, Retired]]]:
    """Writes down what a wave retires, and returns it: step -> sample -> fingerprint -> what was written.

    Nothing is written where nothing stands. Lists the cells that are retired. `reading` are the cells of other
    steps than the plan's that read what it makes again (`run.beyond`).
    """
    wanted: dict[str, dict[str, tuple[str, str, bool]]] = {}
    for (step, sample, fingerprint), must_run in plan.retires.items():
        wanted.setdefault(step, {})[layout.receipt(step, sample, fingerprint)] = (sample, fingerprint, must_run)
    for step, samples in reading.items():
        standing = _standing(
            store,
            Retirements(),
            receipt_entries(store, layout.step_receipts(step), etags=False)
            if samples is None
            else _entries(store, {step: samples}, etags=False),
        )
        wanted[step] = {
            layout.receipt(step, sample, fingerprint): (sample, fingerprint, False)
            for receipts in (standing.counting, standing.damaged)
            for sample, fingerprints in receipts.get(step, {}).items()
            for fingerprint in fingerprints
        }
    references = _references_of(plan)
    if not wanted and not references:
        return {}
    rows: dict[str, list[tuple[str, str, str, bool]]] = {}
    retired: dict[str, dict[str, dict[str, Retired]]] = {}
    for step, names in wanted.items():
        samples_retired = {sample for sample, _, _ in names.values()}
        for entry in (entry for group in _entries(store, {step: samples_retired}) for entry in group):
            if entry.key in names:
                sample, fingerprint, must_run = names[entry.key]
                one = Retired(run_id=run_id, version=store.version(entry), must_run=must_run)
                rows.setdefault(step, []).append((sample, fingerprint, one.version, must_run))
                retired.setdefault(step, {}).setdefault(sample, {})[fingerprint] = one
    store.put(layout.retired(run_id), Retirement(run_id=run_id, receipts=rows, references=references).to_bytes())
    return retired


def with_retired(inventory: Inventory, retired: Mapping[str, Mapping[str, Mapping[str, Retired]]]) -> Inventory:
    """The inventory with what was retired since it was read."""
    merged = {step: dict(samples) for step, samples in inventory.retired.items()}
    for step, samples in retired.items():
        of_step = merged.setdefault(step, {})
        for sample, prints in samples.items():
            of_step[sample] = {**of_step.get(sample, {}), **prints}
    return replace(inventory, retired=merged)


def close_retirements(store: Store) -> None:
    """Takes off the lists what no longer stands, and removes those on which nothing is left. Repeating it is harmless.

    One LIST where nothing is retired; else the cells that are named are listed too.
    """
    lists = _lists(store)
    retirements = _merged(lists.values())
    samples_by_step: dict[str, set[str]] = {}
    for one in lists.values():
        for step, retired_rows in one.receipts.items():
            samples_by_step.setdefault(step, set()).update(row[0] for row in retired_rows)
    standing_keys = {
        entry.key
        for group in _entries(store, samples_by_step)
        for entry in group
        if (entry.key, store.version(entry)) in retirements.receipts
    }
    for key, one in lists.items():
        rows = {
            step: [row for row in rows if layout.receipt(step, row[0], row[1]) in standing_keys]
            for step, rows in one.receipts.items()
        }
        left = replace(
            one,
            receipts={step: some for step, some in rows.items() if some},
            references={
                name: step for name, step in one.references.items() if absent_reference(store, retirements, name)
            },
        )
        if not left.receipts and not left.references:
            store.delete([key])
        elif left != one:
            store.put(key, left.to_bytes())


def absent_reference(store: Store, retirements: Retirements, name: str) -> str:
    """The run that set out to build a reference which is not there since; empty: no run did, or it is built."""
    if name not in retirements.references:
        return ""
    step, run_id = retirements.references[name]
    return "" if standing_receipts(store, retirements, {step: [name]}).counting else run_id


def _references_of(plan: Plan) -> dict[str, str]:
    """Name -> builder's step of the references that a wave builds."""
    builders = [node.name for node in plan.graph if node.step.scope is Scope.REFERENCE]
    return {name: step for step in builders for name, state in plan.cells(step) if state is CellState.TO_RUN}


def _entries(
    store: Store, samples_by_step: Mapping[str, Collection[str]], *, etags: bool = True
) -> Iterator[Iterable[StoreEntry]]:
    """The receipts' entries, those of a cell together."""
    cells = CellFolders({layout.step_receipts(step): samples for step, samples in samples_by_step.items()})
    return entries_of(store, cells, etags=etags)


def _lists(store: Store) -> dict[str, Retirement]:
    """Key -> what is retired there; of runs, the oldest first."""
    lists = {}
    for key in sorted(store.keys(layout.RETIRED)):
        try:
            lists[key] = Retirement.from_json(json.loads(store.get(key)))
        except NotInStore:
            # Somebody closed it since it was listed.
            continue
        except json.JSONDecodeError as error:
            raise StoreFailed(
                f"{store.url_of(key)} is damaged ({error}). It named what that run was to make again, and all that"
                " reads it. Remove it and give your command once with --force: without, old results would count."
            ) from error
        except ValueError as error:
            raise StoreFailed(f"{store.url_of(key)} {error}. Use the version that wrote it, or a later one.") from error
    return lists


def _merged(lists: Iterable[Retirement]) -> Retirements:
    receipts: dict[tuple[str, str], Retired] = {}
    builds: dict[str, tuple[str, str]] = {}
    for one in lists:
        builds |= {name: (step, one.run_id) for name, step in one.references.items()}
        for step, rows in one.receipts.items():
            for sample, fingerprint, version, must_run in rows:
                key = (layout.receipt(step, sample, fingerprint), version)
                # Named twice, the cell must run if either list said so.
                must_run |= key in receipts and receipts[key].must_run
                receipts[key] = Retired(run_id=one.run_id, version=version, must_run=must_run, untrue=one.untrue)
    return Retirements(receipts=receipts, references=builds)
