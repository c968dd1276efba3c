"""What a scientist writes: a step declares what it needs and makes, and how to run and check it.

    class Kallisto(Step):
        \"""Quantifies transcripts and lists fusion candidates.\"""

        reads = Input()                              # from another step's output, or from the sample's source
        index = Reference("kallisto.idx")            # files that are the same for every sample, cached once a host
        abundance = Output("abundance.tsv")
        bootstraps: int = Param(0, help="…")         # an option of the command line, part of the fingerprint
        strand: str = Column("strandedness")         # a value of the sample's row in the sheet

        def run(self, job): sh.kallisto("quant", …)  # the working directory is an empty scratch folder
        def check(self, job): …                      # raises InvalidOutput(sentence) before anything is published

A step may also be a command for bash, in which names in braces are its files and values (`wire.command`):
`command = "bwa mem -t {cpus} {genome} {reads} | samtools sort -o {bam}"`.

Or any executable: `script = "count.sh"`, beside the module that declares it. It finds `SAMPLE`, `INPUT_<PORT>`,
`REFERENCE_<PORT>`, `OUTPUT_DIR`, `PARAM_<NAME>`, `COLUMN_<NAME>`, `CPUS` and `MEMORY_MB` in its environment.

The classes are imported on both sides of the wire, so this module needs the standard library and `wire` alone, and so
does `values`, which it imports.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from batch_pipeline.pipeline.values import Column as Column
from batch_pipeline.pipeline.values import Param as Param
from batch_pipeline.pipeline.values import Parameter as Parameter
from batch_pipeline.pipeline.values import SheetColumn as SheetColumn
from batch_pipeline.wire.contract import DIRECTORY, MANY
from batch_pipeline.wire.errors import InvalidConfig, InvalidPipeline
from batch_pipeline.wire.job import Job

if TYPE_CHECKING:
    from batch_pipeline.pipeline.cell_facts import CellFacts, Learned

#: A step's name stands in keys, job names (128 characters in all) and options.
STEP_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}\Z")


class Scope(Enum):
    """What the cells of a step are: samples, parts of samples, groups of samples, or one gather of all."""

    SAMPLE = "sample"  #: One child a sample.
    PART = "part"  #: One child a sample and part: `part_names`, `part_file` or `part_column` names the parts.
    GROUP = "group"  #: One child a group of samples: those with one value of the column `group_by`.
    COHORT = "cohort"  #: One job after all samples: the gather.
    REFERENCE = "reference"  #: One job a reference, run by the `reference` verb.


class Input:
    """A port that takes files from another step's output port, or from the samples' sources.

    An `optional` one may stay unconnected, and a sample may have no files for it: `job.inputs(port)` is `()` then. One
    with a `role`, of a step of groups, takes files of those members alone that have it in the step's `role_column`.
    """

    def __init__(self, help: str = "", *, optional: bool = False, role: str = "") -> None:
        self.help = help
        self.optional = optional
        self.role = role


class Output:
    """A port with the files that the step leaves in its working directory; `{sample}` stands for the sample's name.

    A file that is not there after `run` fails the cell, unless `optional`. One name that ends with a slash is a
    directory (`Output("qc/")`): the port has all files below it, and the folder is made before `run`. With `many` the
    names are patterns (`Output("*.vcf.gz", many=True)`): the port has all files that they match, at least one each.
    The files of a `temporary` port are removed once every cell that reads them is done, and made again only for one
    that must run (`pipeline.temporary`). Fingerprints do not depend on it.
    """

    def __init__(
        self, *files: str, many: bool = False, optional: bool = False, temporary: bool = False, help: str = ""
    ) -> None:
        if not files:
            raise InvalidPipeline("An Output names at least one file: Output('counts.tsv').")
        for file in files:
            if not isinstance(file, str):
                raise InvalidPipeline(f"Output file {file!r} must be a text, the file's name: Output('counts.tsv').")
            if file.startswith("/") or ".." in Path(file).parts:
                raise InvalidPipeline(f"Output file {file!r} must lie inside the working directory: a relative name.")
        if len({Path(file) for file in files}) < len(files):
            raise InvalidPipeline(f"Output{files} names a file twice. Remove one, or name another file.")
        # Of what is compared with names of files, each has one way to be written.
        self.files = tuple(_normal(file) if many or file.endswith("/") else file for file in files)
        self.many = many
        self.optional = optional
        self.temporary = temporary
        self.help = help

    @property
    def form(self) -> str:
        """`DIRECTORY` or `MANY` (`wire.contract`); empty: each file is named."""
        return MANY if self.many else DIRECTORY if self.files[0].endswith("/") else ""


def _normal(name: str) -> str:
    """A name without what means nothing in it (`./`, `//`); that of a directory ends with a slash."""
    return f"{PurePosixPath(name)}{'/' * name.endswith('/')}"


class Reference:
    """Files under `references/{name}/` that are the same for every sample.

    Those of one port lie beside each other wherever the job runs, as tools expect of a genome and its index:
    `Reference("genome.fa", "genome.fa.fai")`.
    """

    def __init__(self, *files: str, help: str = "") -> None:
        if not files:
            raise InvalidPipeline("A Reference names at least one file: Reference('genome.fa').")
        if wrong := [file for file in files if not isinstance(file, str)]:
            raise InvalidPipeline(f"A Reference's file must be a text, not {wrong[0]!r}: Reference('genome.fa').")
        if text := next((file for file in files[1:] if " " in file), ""):
            raise InvalidPipeline(f"Reference{files}: {text!r} is no file. Give a description by its name, help=….")
        if len(set(files)) < len(files):
            raise InvalidPipeline(f"Reference{files} names a file twice. Remove one.")
        self.files = files
        self.help = help


class Step:
    """Base of all steps. Subclasses declare ports and parameters as class attributes.

    The name of a step in keys, options and reports is the name it is given in `workflow()`.
    """

    #: What its cells are: samples, parts of samples, groups of samples, or one gather of all.
    scope: ClassVar[Scope] = Scope.SAMPLE
    #: Of a step of groups: column of the sample sheet whose values are the groups' names.
    group_by: ClassVar[str] = ""
    #: Of a step of groups: column with the role of each sample, by which ports choose (`Input(role="tumour")`).
    role_column: ClassVar[str] = ""
    #: Of a step of parts: the parts of every sample.
    part_names: ClassVar[tuple[str, ...]] = ()
    #: Instead: a file beside the module with one part a line, the text up to the first tab or blank.
    part_file: ClassVar[str] = ""
    #: Instead: a column of the sheet with each sample's parts, separated by blanks.
    part_column: ClassVar[str] = ""
    #: An executable beside the module, run instead of `run`; empty for Python steps.
    script: ClassVar[str] = ""
    #: A command for bash, run instead of `run`: names in braces stand for files and values (`wire.command`).
    command: ClassVar[str] = ""
    #: Condition over parameters and columns of the sample sheet (`conditions.py`): where it is false, the cell is
    #: excluded, and its readers take what they have as an alternative. Empty: every sample has the step.
    when: ClassVar[str] = ""
    #: Whether a gather does without samples that failed, as long as one is there; `--min-success` may ask for more.
    tolerant: ClassVar[bool] = False
    #: Further files beside the module that belong to the step's code: they are bundled and part of its fingerprint.
    files: ClassVar[tuple[str, ...]] = ()
    #: Programs that it calls; `doctor` looks for them where steps run as processes of this machine.
    tools: ClassVar[tuple[str, ...]] = ()
    #: vCPUs that one child needs.
    cpus: ClassVar[int] = 1
    #: MiB of memory that one child needs: a number, a method of what is known of the cell, or what its earlier cells
    #: took (`cell_facts`).
    memory_mb: ClassVar[int | Callable[[Any, CellFacts], float] | Learned] = 1024
    #: Seconds an attempt may run; none by default, since a default limit kills real work. A number, or a method.
    timeout_seconds: ClassVar[int | Callable[[Any, CellFacts], float | None] | None] = None
    #: Cells of the step that may run side by side, over all jobs of a run; None: as many as there is room for.
    max_parallel: ClassVar[int | None] = None
    #: Container image; part of the fingerprint. Empty: none (the embedded Batch runs it as a process).
    image: ClassVar[str] = ""

    #: Values of the columns for the cell's sample, by attribute; set in the container.
    column_values: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, **params: Any) -> None:
        declared = type(self).declared(Parameter)
        unknown = sorted(set(params) - set(declared))
        if unknown:
            known = ", ".join(sorted(declared)) or "none"
            raise InvalidConfig(f"{type(self).__name__} has no parameter {unknown[0]!r}; it has: {known}.")
        self.params: Final[Mapping[str, Any]] = {
            name: param.parse(params.get(name, param.default)) for name, param in declared.items()
        }

    @classmethod
    def declared(cls, kind: type[Any]) -> dict[str, Any]:
        """Class attributes of one kind (Input, Parameter, SheetColumn …), bases first, in order of declaration."""
        items: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            for name, item in vars(base).items():
                if isinstance(item, kind):
                    items[name] = item
                else:
                    items.pop(name, None)
        return items

    @property
    def needs_rows(self) -> bool:
        """Whether it declares anything of groups or parts."""
        declared = (self.group_by, self.role_column, self.part_names, self.part_file, self.part_column)
        roles = any(port.role for port in self.declared(Input).values())
        return self.scope in (Scope.GROUP, Scope.PART) or roles or any(declared)

    @classmethod
    def summary(cls) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(cls) or cls.__name__).split("\n", 1)[0]

    def run(self, job: Job) -> None:
        """Makes the outputs in the working directory. Any exception, or a script's non-zero exit, fails the cell."""
        if not self.command:
            raise NotImplementedError(f"{type(self).__name__} has neither run(), nor a command, nor a script.")
        from batch_pipeline.pipeline.command import run_command

        run_command(self, job)

    def check(self, job: Job) -> None:
        """Looks at what the tool left, before it is published. Raises InvalidOutput with one sentence."""
