"""Runs one step on one sample in this process, without a pipeline, a store or a backend.

For tests of steps: what a container does around `run` and `check` is left out, what they see is the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from batch_pipeline.pipeline.cell_facts import ANY_MEMORY_MB
from batch_pipeline.pipeline.columns import typed_values
from batch_pipeline.pipeline.step import Output, Reference, Step
from batch_pipeline.wire.contract import DIRECTORY, MANY
from batch_pipeline.wire.errors import InvalidOutput, MissingInput
from batch_pipeline.wire.job import Job


def run_alone(
    step: Step,
    work: Path,
    sample: str,
    *,
    inputs: Mapping[str, Sequence[Path]],
    reference: Path | None = None,
    upstream: Mapping[str, Mapping[str, Any]] | None = None,
    columns: Mapping[str, Any] | None = None,
) -> Job:
    """Runs and checks a step in the new folder `work` and returns its job, with outputs, metrics and versions.

    Raises what the step raises, and InvalidOutput when a declared file is not there afterwards.

    Parameters
    ----------
    inputs: port -> files; for a directory its folder, alone.
    reference: the folder with the reference's files.
    upstream: the metrics of the steps before, by name.
    columns: values of the columns of the sheet that the step declares; others have their defaults.
    """
    job = make_job(step, work, sample, inputs=inputs, reference=reference, upstream=upstream, columns=columns)
    step.column_values = job.columns
    with _inside(work):
        step.run(job)
        step.check(job)
    for port, declared in type(step).declared(Output).items():
        for path in job.outputs(port):
            if not _is_there(path) and not declared.optional:
                raise InvalidOutput(f"{job.step} left no {path.name} for sample {sample}.")
        if not job.outputs(port) and not declared.optional:
            raise InvalidOutput(f"{job.step} left no file like {declared.files[0]} for sample {sample}.")
    return job


def _is_there(path: Path) -> bool:
    """Whether it is a file, or a folder with one in it."""
    return path.is_file() or any(inside.is_file() for inside in path.rglob("*"))


def make_job(
    step: Step,
    work: Path,
    sample: str,
    *,
    inputs: Mapping[str, Sequence[Path]],
    reference: Path | None = None,
    upstream: Mapping[str, Mapping[str, Any]] | None = None,
    columns: Mapping[str, Any] | None = None,
) -> Job:
    """The job of `run_alone`, with its working folder made and nothing run."""
    kind = type(step)
    work.mkdir(parents=True)
    references = kind.declared(Reference)
    if references and reference is None:
        raise MissingInput(f"{kind.__name__} needs a reference; give the folder that has its files.")
    outputs = {
        port: (item.form, tuple(file.replace("{sample}", sample) for file in item.files))
        for port, item in kind.declared(Output).items()
    }
    for folder in (names[0] for form, names in outputs.values() if form == DIRECTORY):
        (work / folder).mkdir(parents=True)
    return Job(
        sample=sample,
        step=kind.__name__.lower(),
        work=work,
        input_files={port: tuple(_files(paths)) for port, paths in inputs.items()},
        input_folders={port: paths[0] for port, paths in inputs.items() if paths and paths[0].is_dir()},
        reference_files={
            port: tuple(Path(reference or "") / file for file in item.files) for port, item in references.items()
        },
        output_names={port: names for port, (form, names) in outputs.items() if form != MANY},
        output_patterns={port: names for port, (form, names) in outputs.items() if form == MANY},
        upstream_metrics=upstream or {},
        params=step.params,
        columns=typed_values(step, columns or {}),
        cpus=kind.cpus,
        memory_mb=kind.memory_mb if isinstance(kind.memory_mb, int) else ANY_MEMORY_MB,
    )


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files, and in place of a folder those below it."""
    for path in paths:
        yield from sorted(inside for inside in path.rglob("*") if inside.is_file()) if path.is_dir() else (path,)


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
