"""Writes what a submission's containers read: the manifest's header and rows.

(A little longer than most modules: header and rows of every kind of cell.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from batch_pipeline.pipeline.cell_inputs import rows_for_port
from batch_pipeline.pipeline.choices import NONE
from batch_pipeline.pipeline.code import entry_of, script_of
from batch_pipeline.pipeline.plan import Inventory, Plan, PlannedJob
from batch_pipeline.pipeline.rows import reads_many
from batch_pipeline.pipeline.step import Input, Scope, SheetColumn
from batch_pipeline.pipeline.wiring import options_of
from batch_pipeline.pipeline.workflow import Node, Port, Source
from batch_pipeline.records.record import now
from batch_pipeline.wire import layout
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.manifest import (
    InputSpec,
    Manifest,
    OutputSpec,
    ReferenceSpec,
    RetiredReceipt,
    Row,
    format_of,
    write_rows,
)
from batch_pipeline.wire.store import Store


def write_manifest(
    store: Store,
    run_id: str,
    plan: Plan,
    job: PlannedJob,
    inventory: Inventory,
    *,
    reference: str,
    bundle_sha256: str,
    resources: tuple[int, int],
    log_excerpt: bool,
) -> tuple[str, str]:
    """Writes rows and header of one submission: two objects, whatever its size. Returns the SHA-256 of header and rows.

    `resources` are the vCPUs and MiB that the job definition gives each child, `log_excerpt` is that of `Manifest`.
    """
    cells = list(_rows(plan, job, inventory))
    rows, width = write_rows(cells)
    header = replace(
        _header(plan, plan.graph[job.step], inventory, cells, log_excerpt),
        run_id=run_id,
        job=job.name,
        bundle_sha256=bundle_sha256,
        cpus=resources[0],
        memory_mb=resources[1],
        reference=reference,
        count=job.size,
        row_bytes=width,
        queued_at=now(),
    )
    store.put(layout.submission(run_id, job.name, "rows.txt"), rows)
    data = json.dumps(header.to_json(), indent=1, ensure_ascii=False).encode()
    store.put(layout.submission(run_id, job.name, "manifest.json"), data)
    return sha256_of_bytes(data), sha256_of_bytes(rows)


def _header(plan: Plan, node: Node, inventory: Inventory, cells: Sequence[Row], log_excerpt: bool) -> Manifest:
    """What is the same for all jobs of a step in a plan."""
    required = tuple(_required(plan, node)) if plan.selection.accept_code_changes else ()
    inputs, outputs = tuple(_inputs(plan, node)), tuple(_outputs(node))
    excluded = plan.excluded.get(node.name, ())
    between = node.scope in (Scope.PART, Scope.GROUP) or any(_is_between(plan, node, step) for step in node.upstream)
    needs = tuple(_needs(node, inputs, outputs, excluded, log_excerpt, between=between))
    return Manifest(
        run_id="",
        job="",
        step=node.name,
        scope=node.step.scope.value,
        entry=entry_of(type(node.step), plan.graph.root),
        script=script_of(type(node.step), plan.graph.root),
        params=dict(node.step.params),
        inputs=inputs,
        references=tuple(_references(node, inventory)),
        outputs=outputs,
        gathered=_gathered(plan, node),
        missing=plan.missing.get(node.name, ()),
        columns=tuple((name, column.kind.__name__) for name, column in node.step.declared(SheetColumn).items()),
        gathered_columns=_gathered_columns(plan, node, inventory),
        excluded=excluded,
        required=required,
        needs=needs,
        log_excerpt=log_excerpt,
        format=format_of(cells, required, needs),
    )


def _needs(
    node: Node,
    inputs: Sequence[InputSpec],
    outputs: Sequence[OutputSpec],
    excluded: Sequence[str],
    log_excerpt: bool,
    *,
    between: bool,
) -> Iterator[str]:
    """What the image of a step must know (`wire.manifest.KNOWN_NEEDS`)."""
    if node.step.command:
        yield "command"
    if node.step.declared(SheetColumn):
        yield "columns"
    if any(spec.alternatives for spec in inputs):
        yield "alternatives"
    if excluded:
        yield "excluded"
    if log_excerpt:
        yield "log_excerpt"
    if any(len(reference.files) > 1 for reference in node.references.values()):
        yield "references"
    if between:
        yield "rows"
    yield from sorted(({port.form for port in inputs} | {port.form for port in outputs}) - {""})


def _rows(plan: Plan, job: PlannedJob, inventory: Inventory) -> Iterator[Row]:
    node = plan.graph[job.step]
    positions = job.members or (0,)
    ports = {port: f"{node.name}.{port}" for port in node.sources}
    retired = inventory.retired.get(node.name, {})
    values = inventory.columns.get(node.name) if node.scope is not Scope.COHORT else None
    rows = plan.rows[node.name]
    for (name, fingerprint), position in zip(plan.members_of(job), positions, strict=True):
        members = rows.samples_of(position)
        sources = inventory.sources.get(plan.samples[members[0]], {}) if ports else {}
        stands = retired.get(name, {}).get(fingerprint)
        row = Row(
            sample=name,
            fingerprint=fingerprint,
            sources={port: sources[key] for port, key in ports.items() if _reads_source(plan, node, port, position)},
            upstream=_upstream(plan, node, position),
            retired=RetiredReceipt(version=stands.version, must_run=stands.must_run) if stands else None,
            columns=values[members[0]] if values and node.scope is not Scope.GROUP else {},
            chosen=_chosen(plan, node, position),
        )
        if node.scope is Scope.GROUP and values:
            row = replace(row, member_columns={plan.samples[i]: list(values[i].values()) for i in members})
        if node.scope is Scope.PART:
            row = replace(row, part=rows.parts[position], part_of=plan.samples[members[0]])
        if any(_is_between(plan, node, step) for step in node.upstream):
            gathered, at = _gathered_by_row(plan, node, inventory, position), _at(plan, node, position)
            row = replace(row, gathered=gathered, at=at)
        yield row


def _is_between(plan: Plan, node: Node, step: str) -> bool:
    """Whether a step that a step reads has other rows, neither of them a gather."""
    rows, above = plan.rows[node.name], plan.rows[step]
    return above is not rows and not rows.is_cohort and not above.is_cohort


def _reads_many(plan: Plan, node: Node, step: str) -> bool:
    """Whether a cell reads several cells of a step, which its row names."""
    return _is_between(plan, node, step) and reads_many(node.scope, plan.graph[step].scope, equal=False)


def _gathered_by_row(plan: Plan, node: Node, inventory: Inventory, position: int) -> dict[str, list[tuple[str, str]]]:
    """Port -> name and fingerprint of each cell that it reads, for ports that read several."""
    gathered = {}
    for port, connection in node.inputs.items():
        option = options_of(connection)[0]
        if isinstance(option, Port) and _reads_many(plan, node, option.task.name):
            rows, above = plan.rows[node.name], plan.rows[option.task.name]
            fingerprints = plan.fingerprints[option.task.name]
            read = rows_for_port(inventory, rows, above, node, port, position)
            gathered[port] = [(above.names[i], fingerprints[i]) for i in read]
    return gathered


def _at(plan: Plan, node: Node, position: int) -> dict[str, str]:
    """Step of other rows -> name of the one cell that is read there."""
    rows = plan.rows[node.name]
    single = (step for step in node.upstream if _is_between(plan, node, step) and not _reads_many(plan, node, step))
    return {step: plan.rows[step].names[rows.read_in(plan.rows[step], position)[0]] for step in single}


def _reads_source(plan: Plan, node: Node, port: str, position: int) -> bool:
    """Whether a cell reads the source of a port, and no alternative to it."""
    if port not in node.choosing:
        return True
    return isinstance(node.choosing[port][plan.choices[node.name].by_port[port][position]], Source)


def _chosen(plan: Plan, node: Node, position: int) -> dict[str, int]:
    """Port -> position of the alternative that a cell reads; what a gather reads of samples is in the header."""
    if not node.choosing:
        return {}
    chosen = {port: positions[position] for port, positions in plan.choices[node.name].by_port.items()}
    return {port: at for port, at in chosen.items() if at != NONE and not _gathers(plan, node, node.choosing[port][0])}


def _gathers(plan: Plan, node: Node, option: Port | Source) -> bool:
    """Whether a port that this feeds takes files of every sample."""
    is_of_rows = isinstance(option, Port) and plan.graph[option.task.name].scope is not Scope.COHORT
    return is_of_rows and node.scope is Scope.COHORT


def _upstream(plan: Plan, node: Node, position: int) -> dict[str, str]:
    """Step -> fingerprint of the one cell that this cell reads there; others are in the header or in `Row.gathered`."""
    upstream = {}
    for step in plan.reads(node.name, position):
        if plan.graph[step].scope is Scope.COHORT:
            upstream[step] = plan.fingerprints[step][0]
        elif node.scope is not Scope.COHORT and not _reads_many(plan, node, step):
            (at,) = plan.rows[node.name].read_in(plan.rows[step], position)
            upstream[step] = plan.fingerprints[step][at]
    return upstream


def _inputs(plan: Plan, node: Node) -> Iterator[InputSpec]:
    for port in node.step.declared(Input):
        # A source that a row does not have is no file.
        options = options_of(node.inputs.get(port, Source(files=())))
        specs = tuple(_input(plan, node, port, option) for option in options)
        gathers = _gathers(plan, node, options[0])
        if port not in node.choosing or (gathers and len(specs) == 1):
            yield specs[0]
            continue
        chosen = (
            zip(plan.gathered_rows(node.name).names, plan.choices[node.name].by_port[port], strict=True)
            if gathers
            else ()
        )
        without = frozenset(plan.missing.get(node.name, ()))
        yield InputSpec(
            port=port,
            kind="alternatives",
            alternatives=specs,
            form=next((spec.form for spec in specs if spec.form), ""),
            chosen=tuple((sample, at) for sample, at in chosen if at != NONE and sample not in without),
        )


def _input(plan: Plan, node: Node, port: str, option: Port | Source) -> InputSpec:
    """A port as one alternative feeds it."""
    if not isinstance(option, Port):
        return InputSpec(port=port, kind="source")
    upstream = plan.graph[option.task.name]
    output = upstream.outputs[option.name]
    alone = "gather" if node.scope is Scope.COHORT or _reads_many(plan, node, upstream.name) else "step"
    kind = "cohort" if upstream.scope is Scope.COHORT else alone
    return InputSpec(
        port=port,
        kind=kind,
        step=upstream.name,
        files=output.files,
        form=output.form,
        output=option.name if output.form else "",
    )


def _required(plan: Plan, node: Node) -> Iterator[str]:
    """The input ports that need files and whose upstream outputs are not optional."""
    for port, connection in node.inputs.items():
        ports = [option for option in options_of(connection) if isinstance(option, Port)]
        may_lack = any(plan.graph[option.task.name].outputs[option.name].optional for option in ports)
        if ports and not may_lack and port not in node.optional:
            yield port


def _references(node: Node, inventory: Inventory) -> Iterator[ReferenceSpec]:
    for port, reference in node.references.items():
        for entry in map(inventory.references.__getitem__, reference.files):
            yield ReferenceSpec(port=port, key=entry.key, etag=entry.etag, size_bytes=entry.size_bytes)


def _outputs(node: Node) -> Iterator[OutputSpec]:
    for port, output in node.outputs.items():
        yield OutputSpec(port=port, files=output.files, optional=output.optional, form=output.form)


def _gathered(plan: Plan, node: Node) -> dict[str, list[list[str]]]:
    """For a gather: step -> [sample, fingerprint] of every sample that it takes, in the order of the list."""
    if node.scope is not Scope.COHORT:
        return {}
    return {
        step: [[plan.rows[step].names[i], plan.fingerprints[step][i]] for i in plan.gathers(node.name, step)]
        for step in node.upstream
        if plan.graph[step].scope is not Scope.COHORT
    }


def _gathered_columns(plan: Plan, node: Node, inventory: Inventory) -> dict[str, list[Any]]:
    """For a gather that declares columns: the values of every sample that it takes, in the order of the list."""
    reads_rows = any(plan.graph[step].scope is not Scope.COHORT for step in node.upstream)
    if node.scope is not Scope.COHORT or node.name not in inventory.columns or not reads_rows:
        return {}
    values, rows = inventory.columns[node.name], plan.gathered_rows(node.name)
    samples = dict.fromkeys(sample for i in plan.gathered(node.name) for sample in rows.samples_of(i))
    return {plan.samples[i]: list(values[i].values()) for i in samples}


def cells_of(store: Store, run_id: str, job_name: str) -> list[tuple[str, str]]:
    """Sample and fingerprint of every child of a submission, in the order of its indices, from its rows."""
    rows = store.get(layout.submission(run_id, job_name, "rows.txt")).splitlines()
    return [(row.sample, row.fingerprint) for row in map(Row.from_line, rows)]
