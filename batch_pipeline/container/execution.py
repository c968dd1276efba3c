"""Runs a step, as a script or as a class, and says how that ended.

A script finds what it needs in its environment:

    SAMPLE  OUTPUT_DIR (the working directory)  CPUS  MEMORY_MB
    INPUT_<PORT>       paths, separated by spaces, unless they are too many for a variable
    INPUT_<PORT>_1, …  each of its files, and INPUT_<PORT>_COUNT; not where there is a list
    INPUT_<PORT>_LIST  for a gather, a directory and an output with `many`: a file with `sample <tab> path` a line
    INPUT_<PORT>_DIRECTORY  for a directory: its folder; for a gather of it the folder with one a sample
    REFERENCE_<PORT>   paths, separated by spaces; REFERENCE_<PORT>_1, … and _COUNT as of an input
    PARAM_<NAME>       a value; true or false for a flag
    COLUMN_<NAME>      the value of a column of the sheet that the step declares
    COLUMNS_LIST       for a gather that declares columns: a file with a header, and `sample <tab> value …` a line

Its class is imported after it, and only forked if it has a `check` of its own.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from batch_pipeline.container.disk import PRIVATE
from batch_pipeline.container.loading import LoadedStep
from batch_pipeline.container.run import Ended, Signals, fork, spawn
from batch_pipeline.container.verdict import Verdict, guarded, verdict_of_code
from batch_pipeline.wire.errors import ContractBroken
from batch_pipeline.wire.job import Job, text_of

#: Linux takes 128 KiB a variable (MAX_ARG_STRLEN), https://man7.org/linux/man-pages/man2/execve.2.html
_VARIABLE_BYTES = 100_000


@dataclass(frozen=True, kw_only=True)
class Executed:
    """How a process of the step ended, as a verdict and as the kernel tells."""

    verdict: Verdict
    ended: Ended

    def after(self, earlier: Executed) -> Executed:
        """This end, with what this process and an earlier one took together."""
        peak = max(earlier.ended.peak_memory_bytes, self.ended.peak_memory_bytes)
        seconds = round(earlier.ended.cpu_seconds + self.ended.cpu_seconds, 3)
        return replace(self, ended=replace(self.ended, peak_memory_bytes=peak, cpu_seconds=seconds))


#: Before any process of the step was started.
NOT_RUN = Executed(verdict=Verdict(), ended=Ended(code=0, peak_memory_bytes=0, cpu_seconds=0.0))


def run_script(
    script: str,
    job: Job,
    lists: str,
    environment: Mapping[str, str],
    signals: Signals,
    *,
    listed: Collection[str] = (),
) -> Executed:
    """Runs a script in the job's folder; files of names go to `lists`, those of input ports `listed` too.

    Raises ContractBroken when it cannot be started, StepInterrupted when a signal came before, OSError.
    """
    name = script.rpartition("/")[2]
    try:
        ended = spawn([script], script_environment(job, lists, environment, listed), job.work, signals)
    except ContractBroken as error:
        if os.path.isfile(script):
            raise
        raise ContractBroken(f"The bundle has no {name}, the script of {job.step}. Submit again.") from error
    verdict = verdict_of_code(name, ended.code) if ended.code else Verdict()
    return Executed(verdict=verdict, ended=ended)


def run_class(loaded: LoadedStep, job: Job, environment: Mapping[str, str], signals: Signals, *, run: bool) -> Executed:
    """Runs the class's `run`, if `run`, and its `check` in a fork. Raises StepInterrupted when a signal came before."""

    def act() -> dict[str, Any]:
        loaded.enter()
        step = loaded.make(job.params)
        if job.columns:
            step.column_values = job.columns
        if run:
            step.run(job)
        step.check(job)
        return {}

    # What was noted before an error is told too.
    def outcome() -> dict[str, Any]:
        return {**guarded(act), "metrics": job.metrics, "versions": job.versions}

    ended, fields = fork(outcome, environment, job.work, signals)
    verdict = verdict_of_code(f"The process of {job.step}", ended.code or 1) if fields is None else Verdict(**fields)
    return Executed(verdict=verdict, ended=ended)


def script_environment(
    job: Job, lists: str, environment: Mapping[str, str], listed: Collection[str] = ()
) -> dict[str, str]:
    """The environment of a step's script; writes the lists of files that were gathered, or are `listed`.

    Raises OSError.
    """
    variables = {
        # The folder of its code is not written to.
        "PYTHONDONTWRITEBYTECODE": "1",
        **environment,
        "SAMPLE": job.sample,
        **({"PART": job.part} if job.part else {}),
        "OUTPUT_DIR": str(job.work),
        "CPUS": str(job.cpus),
        "MEMORY_MB": str(job.memory_mb),
    }
    for port, files in job.input_files.items():
        if port not in listed:
            variables |= _one_by_one(f"INPUT_{port.upper()}", files)
    for port, files in job.reference_files.items():
        variables |= _one_by_one(f"REFERENCE_{port.upper()}", files)
    # After these: a port called `reads_1` goes before the first file of `reads`.
    for port, files in job.input_files.items():
        if port in listed:
            variables |= _listed(port, {job.sample: files}, Path(lists))
        else:
            variables[f"INPUT_{port.upper()}"] = " ".join(map(str, files))
    for port, gathered in job.gathered_files.items():
        variables |= _listed(port, gathered, Path(lists))
    for port, folder in job.input_folders.items():
        variables[f"INPUT_{port.upper()}_DIRECTORY"] = str(folder)
    for port, folders in job.gathered_folders.items():
        above = next(iter({folder.parent.parent for folder in folders.values()}), "")
        variables[f"INPUT_{port.upper()}_DIRECTORY"] = str(above)
    for port, files in job.reference_files.items():
        variables[f"REFERENCE_{port.upper()}"] = " ".join(map(str, files))
    for name, value in job.params.items():
        variables[f"PARAM_{name.upper()}"] = text_of(value)
    for name, value in job.columns.items():
        variables[f"COLUMN_{name.upper()}"] = text_of(value)
    if job.gathered_columns:
        variables["COLUMNS_LIST"] = _columns_list(job.gathered_columns, Path(lists))
    return variables


def _one_by_one(name: str, files: Sequence[Path]) -> dict[str, str]:
    """The files of a port in variables of their own, for names with blanks; none where they are too many."""
    if sum(len(os.fsencode(file)) for file in files) >= _VARIABLE_BYTES:
        return {f"{name}_COUNT": str(len(files))}
    return {f"{name}_COUNT": str(len(files)), **{f"{name}_{n}": str(file) for n, file in enumerate(files, 1)}}


def _columns_list(values_by_sample: Mapping[str, Mapping[str, Any]], lists: Path) -> str:
    """Writes the columns of a gather's samples, which have neither tabs nor line ends, and returns the file's path."""
    names = list(next(iter(values_by_sample.values())))
    rows = [["sample", *names], *([sample, *map(text_of, row.values())] for sample, row in values_by_sample.items())]
    lists.mkdir(PRIVATE, exist_ok=True)
    # Beside the lists of ports, none of which begins so.
    path = lists / ".columns.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _listed(port: str, gathered: Mapping[str, Iterable[Path]], lists: Path) -> dict[str, str]:
    pairs = [(sample, str(file)) for sample, files in gathered.items() for file in files]
    path = lists / f"{port}.tsv"
    lists.mkdir(PRIVATE, exist_ok=True)
    path.write_text("".join(f"{sample}\t{file}\n" for sample, file in pairs))
    joined = " ".join(file for _, file in pairs)
    short = {f"INPUT_{port.upper()}": joined} if len(joined.encode()) < _VARIABLE_BYTES else {}
    return {f"INPUT_{port.upper()}_LIST": str(path), **short}
