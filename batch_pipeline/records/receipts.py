"""Lists receipts and tells which of them count: not those that are cut off, nor those that a run retired.

A run that makes cells again first writes down the receipts of these cells, and of all below them, in one object, before
its first SubmitJob (`pipeline.retiring` decides which, `wire.retirement` has the form). So it is seen by what is there
that these cells are not done, wherever the run was killed. The object goes when nothing that it names stands any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Final

from batch_pipeline.pipeline.plan import CellState, Inventory, Plan, Retired
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import StoreFailed
from batch_pipeline.wire.retirement import Retirement
from batch_pipeline.wire.store import NotInStore, Store

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


def read_retirements(store: Store) -> Retirements:
    """All that is retired. One LIST, and a GET for each run of whose cells some are not made yet.

    Raises StoreFailed, also for a list that a later version wrote.
    """
    return _merged(_lists(store).values())


def standing_receipts(store: Store, retirements: Retirements, prefix: str = layout.RECEIPTS) -> Standing:
    """The receipts below a prefix, told apart. One LIST (its pages)."""
    standing = Standing()
    for key, size_bytes, retired in _listed(store, retirements, prefix):
        cell = layout.cell_of_receipt(key)
        if cell is None:
            continue
        step, sample, fingerprint = cell
        if retired is not None:
            standing.retired.setdefault(step, {}).setdefault(sample, {})[fingerprint] = retired
            continue
        samples = (standing.counting if size_bytes >= LEAST_BYTES else standing.damaged).setdefault(step, {})
        samples[sample] = (*samples.get(sample, ()), fingerprint)
    return standing


def retire(
    store: Store, run_id: str, plan: Plan, reading: Mapping[str, AbstractSet[str] | None]
) -> dict[str, dict[str, dict[str, Retired]]]:
    """Writes down what a wave retires, and returns it: step -> sample -> fingerprint -> what was written.

    Nothing is written where nothing stands. One LIST a step that has such receipts. `reading` are the cells of other
    steps than the plan's that read what it makes again (`run.beyond`).
    """
    wanted: dict[str, dict[str, tuple[str, str, bool]]] = {}
    for (step, sample, fingerprint), must_run in plan.retires.items():
        wanted.setdefault(step, {})[layout.receipt(step, sample, fingerprint)] = (sample, fingerprint, must_run)
    for step, samples in reading.items():
        wanted[step] = {
            layout.receipt(step, sample, fingerprint): (sample, fingerprint, False)
            for _, sample, fingerprint in filter(
                None, map(layout.cell_of_receipt, store.keys(layout.step_receipts(step)))
            )
            if samples is None or sample in samples
        }
    references = _references_of(plan)
    if not wanted and not references:
        return {}
    rows: dict[str, list[tuple[str, str, str, bool]]] = {}
    retired: dict[str, dict[str, dict[str, Retired]]] = {}
    for step, names in wanted.items():
        for entry in store.list(layout.step_receipts(step)):
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

    One LIST where nothing is retired; else one more a step that is named.
    """
    lists = _lists(store)
    retirements = _merged(lists.values())
    steps = {step for one in lists.values() for step in one.receipts}
    standing_keys = {
        key for step in steps for key, _, retired in _listed(store, retirements, layout.step_receipts(step)) if retired
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
    return "" if standing_receipts(store, retirements, layout.receipts(step, name)).counting else run_id


def _references_of(plan: Plan) -> dict[str, str]:
    """Name -> builder's step of the references that a wave builds."""
    builders = [node.name for node in plan.graph if node.step.scope is Scope.REFERENCE]
    return {name: step for step in builders for name, state in plan.cells(step) if state is CellState.TO_RUN}


def _listed(store: Store, retirements: Retirements, prefix: str) -> Iterator[tuple[str, int, Retired | None]]:
    """Key, bytes and retirement of each receipt below a prefix."""
    if not retirements.receipts:
        yield from ((key, size_bytes, None) for key, size_bytes in store.sizes(prefix))
        return
    for entry in store.list(prefix):
        yield entry.key, entry.size_bytes, retirements.receipts.get((entry.key, store.version(entry)))


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
