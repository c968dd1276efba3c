"""Which receipts vouch for what: those of a run's cells, of all cells, and the one behind a file.

A run answers for all cells of its list and steps, those that an earlier run had done before too: what it was to have is
what is there when it has ended.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Final

from batch_pipeline.pipeline.step import Scope
from batch_pipeline.records.receipts import (
    Retirements,
    all_standing_receipts,
    read_retirements,
    standing_receipts,
)
from batch_pipeline.records.record import RunRecord
from batch_pipeline.records.registry import samples_of
from batch_pipeline.records.removals import Removal, removed_files
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse, StoreFailed
from batch_pipeline.wire.receipt import Receipt
from batch_pipeline.wire.store import NotInStore, Store

#: Receipts that are read at once, and that are kept before they are asked for.
AT_ONCE: Final = 16
READ_AHEAD: Final = 64 * AT_ONCE
Cell = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """What there is of a run's cells."""

    #: Steps in the order of the pipeline, samples in that of the list.
    receipts: Sequence[Receipt]
    #: Cells without one: (step, sample).
    missing: Sequence[Cell]
    #: Key of an output that was removed after use -> the record.
    removed: Mapping[str, Removal] = field(default_factory=dict)


def results_of(store: Store, run: RunRecord) -> RunResults:
    """The receipts of a run's cells, which are listed as `records.listing` says; a GET a cell.

    Raises InvalidUse for a run that has no cells of its own, as a driver's.
    """
    try:
        plan_record = store.get_json(layout.plan(run.run_id))
        scopes, excluded = plan_record["scopes"], plan_record.get("excluded", {})
        names = list(samples_of(store, run.run_id))
    except NotInStore as error:
        raise InvalidUse(f"Run {run.run_id} has no steps of its own. Name a run that it began.") from error
    wanted: list[Cell] = []
    samples_by_step: dict[str, list[str]] = {}
    for step, scope in scopes.items():
        others = plan_record.get("rows", {}).get(step, names)
        samples_by_step[step] = [layout.COHORT] if scope == Scope.COHORT.value else others
        without = frozenset(excluded.get(step, ()))
        wanted += [(step, name) for name in samples_by_step[step] if name not in without]
    standing = standing_receipts(store, read_retirements(store), samples_by_step)
    there = dict(_keys_of(standing.counting))
    newest = _newest(read_receipts(store, [key for cell in wanted for key in there.get(cell, ())]))
    return RunResults(
        receipts=[newest[cell] for cell in wanted if cell in newest],
        missing=[cell for cell in wanted if cell not in newest],
        removed=removed_files(store, newest.values(), standing.removed),
    )


def all_receipts(
    store: Store, prefix: str = layout.RECEIPTS, *, damaged: Callable[[str], object] | None = None
) -> Iterator[Receipt]:
    """The newest receipt that counts of every cell below a prefix of the receipts, by step and sample.

    They are read as they are asked for. `damaged` as for `read_receipts`.
    """
    standing = all_standing_receipts(store, read_retirements(store), prefix)
    if damaged is not None:
        for _, keys in _keys_of(standing.damaged):
            for key in keys:
                damaged(key)
    keys = [key for _, cell_keys in sorted(_keys_of(standing.counting)) for key in cell_keys]
    receipts = read_receipts(store, keys, damaged=damaged)
    for _, of_cell in groupby(receipts, key=attrgetter("step", "sample")):
        yield max(of_cell, key=attrgetter("stopped_at"))


def receipts_counting(
    store: Store, samples_by_step: Mapping[str, Collection[str]]
) -> tuple[list[Receipt], dict[str, Removal]]:
    """The newest receipt that counts of each of these cells, by step and sample.

    And key of an output of theirs that was removed after use -> its record.
    """
    standing = standing_receipts(store, read_retirements(store), samples_by_step)
    keys = [key for _, cell_keys in _keys_of(standing.counting) for key in cell_keys]
    receipts = [receipt for _, receipt in sorted(_newest(read_receipts(store, keys)).items())]
    return receipts, removed_files(store, receipts, standing.removed)


def receipt_of(store: Store, step: str, sample: str) -> Receipt | None:
    """The newest receipt of a cell, a retired one too: the files that it names are there. One LIST and one GET."""
    return receipts_of(store, [(step, sample)]).get((step, sample))


def receipts_of(store: Store, cells: Collection[Cell]) -> dict[Cell, Receipt]:
    """The newest receipt of each cell that has one, retired ones too; a GET each, beside their listing."""
    return receipts_and_removed(store, cells)[0]


def receipts_and_removed(store: Store, cells: Collection[Cell]) -> tuple[dict[Cell, Receipt], dict[str, Removal]]:
    """`receipts_of`, and key of an output of theirs that was removed after use -> its record, a GET each."""
    samples_by_step: dict[str, set[str]] = {}
    for step, sample in cells:
        samples_by_step.setdefault(step, set()).add(sample)
    standing = standing_receipts(store, Retirements(), samples_by_step)
    keys = [key for of in (standing.counting, standing.damaged) for _, cell_keys in _keys_of(of) for key in cell_keys]
    receipts = _newest(read_receipts(store, keys))
    return receipts, removed_files(store, receipts.values(), standing.removed)


def maker_of(store: Store, key: str) -> Cell | None:
    """The cell that a key of results belongs to, by the key alone; None for what no cell makes.

    Of a reference's file that is the cell that built the reference, whichever step that was.
    """
    if cell := layout.cell_of_result(key):
        return cell
    head, name, *rest = f"{key}/".split("/")
    for step in store.folders(layout.RECEIPTS) if f"{head}/" == layout.REFERENCES and any(rest) else ():
        receipt = receipt_of(store, step, name)
        if receipt is not None and any(output.key == key for output in receipt.outputs):
            return step, name
    return None


def read_receipts(
    store: Store, keys: Sequence[str], *, damaged: Callable[[str], object] | None = None
) -> Iterator[Receipt]:
    """The receipts at these keys, those that went meanwhile left out.

    The keys of damaged ones are told to `damaged`; without it they raise StoreFailed.
    """
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="receipts") as pool:
        # A pool keeps what it has read until it is asked for.
        for start in range(0, len(keys), READ_AHEAD):
            for receipt in pool.map(lambda key: _read(store, key, damaged), keys[start : start + READ_AHEAD]):
                if receipt is not None:
                    yield receipt


def read_checksums(text: str) -> dict[str, str]:
    """File -> SHA-256, of what `sha256sum` writes."""
    lines = (line.split(maxsplit=1) for line in text.splitlines())
    return {words[1].strip().removeprefix("*"): words[0] for words in lines if len(words) == 2}


def _read(store: Store, key: str, damaged: Callable[[str], object] | None) -> Receipt | None:
    try:
        return Receipt.from_json(json.loads(store.get(key)))
    except NotInStore:
        return None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        if damaged is not None:
            damaged(key)
            return None
        raise StoreFailed(
            f"The receipt {store.url_of(key)} cannot be read ({error}). Remove it, and run its cell again."
        ) from error


def _keys_of(fingerprints: Mapping[str, Mapping[str, Sequence[str]]]) -> Iterator[tuple[Cell, list[str]]]:
    for step, samples in fingerprints.items():
        for sample, prints in samples.items():
            yield (step, sample), [layout.receipt(step, sample, fingerprint) for fingerprint in prints]


def _newest(receipts: Iterator[Receipt]) -> dict[Cell, Receipt]:
    """Of two receipts of a cell, one is about to be removed: the older."""
    newest: dict[Cell, Receipt] = {}
    for receipt in receipts:
        cell = (receipt.step, receipt.sample)
        if cell not in newest or newest[cell].stopped_at < receipt.stopped_at:
            newest[cell] = receipt
    return newest
