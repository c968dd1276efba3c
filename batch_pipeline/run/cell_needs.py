"""What cells ask for, of steps whose memory or time limit is computed: from the sheet, the sources and receipts.

The methods of the steps (`pipeline.cell_facts`) are called here, once for each cell that is to run, with what the
inventory knows already. Beyond it are read the receipts of what such cells read, where that is done, a GET a cell and
upstream step, and for `Learned` some receipts of the step's own cells. Steps with plain numbers cost nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

from batch_pipeline.pipeline.cell_facts import CellFacts, Learned
from batch_pipeline.pipeline.code import place_of
from batch_pipeline.pipeline.plan import CellNeed, CellState, Inventory, Plan
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.pipeline.wiring import options_of
from batch_pipeline.pipeline.workflow import Node, Port
from batch_pipeline.records.events import FailedCell
from batch_pipeline.records.request import Request
from batch_pipeline.records.results import read_receipts
from batch_pipeline.records.usage import CellUsage, memory_for, usage_of
from batch_pipeline.run.estimate import read_some_receipts
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import InvalidPipeline
from batch_pipeline.wire.layout import COHORT
from batch_pipeline.wire.manifest import SourceFile

Cell = tuple[str, str]
#: What a formula raises that is wrong for a cell.
_MISTAKES: Final = (ArithmeticError, AttributeError, LookupError, NameError, TypeError, ValueError)


def cell_needs(
    request: Request, plan: Plan, inventory: Inventory, failed: Sequence[FailedCell]
) -> dict[str, dict[str, CellNeed]]:
    """Step -> sample (COHORT for a gather) of each cell that is to run -> what it asks for.

    `failed` are cells that failed earlier, those of this command among them. Raises InvalidPipeline for a method that
    fails or returns no number, with the sample's name.
    """
    needs: dict[str, dict[str, CellNeed]] = {}
    for node in plan.graph:
        if not node.by_evidence:
            continue
        names = [name for name, state in plan.cells(node.name) if state is CellState.TO_RUN]
        learned = _learned(request, node, inventory, failed) if names else None
        facts = cell_facts(request, plan, inventory, node, names, failed) if names else iter(())
        needs[node.name] = {name: _need(node, cell, learned) for name, cell in zip(names, facts, strict=True)}
    return needs


def cell_facts(
    request: Request,
    plan: Plan,
    inventory: Inventory,
    node: Node,
    names: Sequence[str],
    failed: Sequence[FailedCell],
) -> Iterator[CellFacts]:
    """What is known of some cells of a step, in order; `failed` as for `cell_needs`."""
    hungry = Counter(
        cell.sample for cell in failed if cell.step == node.name and cell.reason is EndReason.OUT_OF_MEMORY
    )
    if node.scope is Scope.COHORT:
        yield CellFacts(
            sample="",
            samples=len(plan.samples),
            source_bytes=_total(chain.from_iterable(ports.values() for ports in inventory.sources.values())),
            input_bytes=dict.fromkeys(node.inputs),
            attempt=1 + hungry[COHORT],
        )
        return
    made = _made_bytes(request, plan, node, names)
    for name in names:
        ports = inventory.sources.get(name, {})
        own = {
            port: sum(file.size_bytes for file in ports[f"{node.name}.{port}"])
            for port in node.sources
            if f"{node.name}.{port}" in ports
        }
        sample = request.samples.by_name.get(name)
        yield CellFacts(
            sample=name,
            source_bytes=_total(ports.values()),
            input_bytes={**dict.fromkeys(node.inputs), **own, **made.get(name, {})},
            columns=sample.columns if sample is not None else {},
            attempt=1 + hungry[name],
        )


def _total(ports: Iterable[Sequence[SourceFile]]) -> int:
    """Bytes of the files of some ports, each file once."""
    return sum({file.url: file.size_bytes for files in ports for file in files}.values())


def _made_bytes(request: Request, plan: Plan, node: Node, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Sample -> input port -> bytes of the files that a step made for it, where it is done."""
    options = {port: [one for one in options_of(item) if isinstance(one, Port)] for port, item in node.inputs.items()}
    keys: dict[Cell, str] = {}
    wanted = frozenset(names)
    for position, name in enumerate(plan.samples):
        for step in plan.reads(node.name, position) if name in wanted else ():
            is_gather = plan.graph[step].scope is Scope.COHORT
            at = 0 if is_gather else position
            if plan.states[step][at] is CellState.DONE:
                cell = COHORT if is_gather else name
                keys[step, name] = layout.receipt(step, cell, plan.fingerprints[step][at])
    sizes: dict[Cell, dict[str, int]] = {}
    for receipt in read_receipts(request.store, list(dict.fromkeys(keys.values())), damaged=lambda key: None):
        ports: dict[str, int] = {}
        for file in receipt.outputs:
            ports[file.port] = ports.get(file.port, 0) + file.size_bytes
        sizes[receipt.step, receipt.sample] = ports
    made: dict[str, dict[str, int]] = {}
    for step, name in keys:
        cell = COHORT if plan.graph[step].scope is Scope.COHORT else name
        for port, some in options.items():
            for one in some:
                if one.task.name == step and (step, cell) in sizes:
                    made.setdefault(name, {})[port] = sizes[step, cell].get(one.name, 0)
    return made


def _learned(request: Request, node: Node, inventory: Inventory, failed: Sequence[FailedCell]) -> int | None:
    """MiB that a step learned; None: it does not learn."""
    if "memory_mb" not in node.by_evidence or not isinstance(learned := node.step.memory_mb, Learned):
        return None
    receipts = read_some_receipts(request.store, node.name, inventory)
    usages = [usage for receipt in receipts if (usage := usage_of(receipt))]
    done = inventory.receipts.get(node.name, {})
    most: dict[str, int] = {}
    for cell in failed:
        if cell.step == node.name and cell.reason is EndReason.OUT_OF_MEMORY and cell.sample not in done:
            most[cell.sample] = max(most.get(cell.sample, 0), cell.memory_mb)
    usages += [CellUsage.out_of_memory(memory_mb) for memory_mb in most.values() if memory_mb]
    return memory_for(usages, learned.percent, learned.headroom) if usages else learned.first


def _need(node: Node, cell: CellFacts, learned: int | None) -> CellNeed:
    memory_mb = learned
    if "memory_mb" in node.by_evidence and learned is None:
        memory_mb = _computed(node, "memory_mb", cell)
    seconds = _computed(node, "timeout_seconds", cell) if "timeout_seconds" in node.by_evidence else None
    return CellNeed(memory_mb=memory_mb, timeout_seconds=seconds, weight=max(1, cell.source_bytes))


def _computed(node: Node, name: str, cell: CellFacts) -> int | None:
    """What a method of the step makes of a cell, rounded up."""
    method: Callable[[CellFacts], Any] = getattr(node.step, name)
    try:
        value = method(cell)
    except _MISTAKES as error:
        raise InvalidPipeline(
            f"{_place(node, name)} failed for {_words(cell)} ({type(error).__name__}: {error}). What it was given, with"
            f" None for what is not known: {cell}."
        ) from error
    if value is None and name == "timeout_seconds":
        return None
    if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
        raise InvalidPipeline(
            f"{_place(node, name)} must return a number above 0, and returned {value!r} for {_words(cell)}. Correct it."
        )
    number: float = value
    return math.ceil(number)


def _place(node: Node, name: str) -> str:
    return f"{place_of(type(node.step), name)}: {type(node.step).__name__}.{name}"


def _words(cell: CellFacts) -> str:
    return f"sample {cell.sample}" if cell.sample else "the gather"
