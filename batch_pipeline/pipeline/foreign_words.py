"""Reviews attributes of a step that are words of other workflow systems: nothing reads `threads = 4` here."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from batch_pipeline.pipeline.code import own_classes, parsed, place_of
from batch_pipeline.pipeline.step import Step

_CPUS: Final = "Write cpus = N, the vCPUs of a job."
_MEMORY: Final = "Write memory_mb = N, the MiB of a job."
#: Word of Snakemake, Nextflow or WDL -> what is written instead.
_WORDS: Final = {
    **dict.fromkeys(("threads", "cores", "cpu"), _CPUS),
    **dict.fromkeys(("memory", "mem", "mem_mb"), _MEMORY),
    **dict.fromkeys(("container", "docker"), 'Write image = "NAME".'),
    "resources": f"{_CPUS} {_MEMORY}",
    "runtime": "Write timeout_seconds = N.",
    "shell": 'Write command = "…".',
    "input": "Write NAME = Input().",
    "output": 'Write NAME = Output("FILE").',
    "params": "Write NAME = Param(DEFAULT).",
}
_VALUES = (str, int, float, tuple, list, dict)


def ignored_words(step: type[Step], pipeline: Path) -> Iterator[str]:
    """Attributes of a step without run() that are such words and that no code names, a sentence each.

    The code is that of the modules of the step and its bases, and of the pipeline's file.
    """
    if step.run is Step.run:
        yield from _sentences(step, pipeline)


def doubtful_words(step: type[Step], pipeline: Path) -> Iterator[str]:
    """The same of a step with run(), which may hand itself on to code that reads them."""
    if step.run is not Step.run:
        yield from _sentences(step, pipeline)


def _sentences(step: type[Step], pipeline: Path) -> Iterator[str]:
    owners = own_classes(step)
    files = {pipeline, *(Path(inspect.getfile(owner)) for owner in owners)}
    for owner in owners:
        for name, value in vars(owner).items():
            # Each instance has its own params instead.
            if name in _WORDS and isinstance(value, _VALUES) and (name == "params" or not _names(files, name)):
                yield (
                    f"{place_of(owner, name)}: {step.__name__}.{name} is a word of other workflow systems, and nothing"
                    f" reads it. {_WORDS[name]}"
                )


def _names(files: Iterable[Path], word: str) -> bool:
    """Whether code names an attribute of this word."""
    nodes = (node for file in files if file.is_file() for node in ast.walk(parsed(file)))
    return any(word in (getattr(node, "attr", None), getattr(node, "value", None)) for node in nodes)
