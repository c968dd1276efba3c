"""Runs one step on one sample in this process, without a pipeline, a store or a backend.

For tests of steps: what a container does around `run` and `check` is left out, what they see is the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from batch_pipeline.pipeline.step import Output, Reference, Step
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
) -> Job:
    """Runs and checks a step in the new folder `work` and returns its job, with outputs, metrics and versions.

    Raises what the step raises, and InvalidOutput when a declared file is not there afterwards.

    Parameters
    ----------
    reference: the folder with the reference's files.
    upstream: the metrics of the steps before, by name.
    """
    job = make_job(step, work, sample, inputs=inputs, reference=reference, upstream=upstream)
    with _inside(work):
        step.run(job)
        step.check(job)
    for port, declared in type(step).declared(Output).items():
        for path in job.outputs(port):
            if not path.is_file() and not declared.optional:
                raise InvalidOutput(f"{job.step} left no {path.name} for sample {sample}.")
    return job


def make_job(
    step: Step,
    work: Path,
    sample: str,
    *,
    inputs: Mapping[str, Sequence[Path]],
    reference: Path | None = None,
    upstream: Mapping[str, Mapping[str, Any]] | None = None,
) -> Job:
    """The job of `run_alone`, with its working folder made and nothing run."""
    kind = type(step)
    work.mkdir(parents=True)
    references = kind.declared(Reference)
    if references and reference is None:
        raise MissingInput(f"{kind.__name__} needs a reference; give the folder that has its files.")
    return Job(
        sample=sample,
        step=kind.__name__.lower(),
        work=work,
        input_files={port: tuple(paths) for port, paths in inputs.items()},
        reference_files={port: Path(reference or "") / item.file for port, item in references.items()},
        output_names={
            port: tuple(file.format(sample=sample) for file in item.files)
            for port, item in kind.declared(Output).items()
        },
        upstream_metrics=upstream or {},
        params=step.params,
        cpus=kind.cpus,
        memory_mb=kind.memory_mb,
    )


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
