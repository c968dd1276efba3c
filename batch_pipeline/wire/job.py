"""The job that a step sees while it runs: where its files are, what it may use, where to note what it found.

The container makes one for each cell and hands it to the step's `run` and `check`; a test of a step makes one itself.
The working directory is an empty scratch folder, `work`; outputs are written there under their declared names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from batch_pipeline.wire.errors import ContractBroken

if TYPE_CHECKING:
    from batch_pipeline.wire.tools import ToolOutput

T = TypeVar("T")


@dataclass(kw_only=True)
class Job:
    """One attempt at one cell. Paths are absolute."""

    #: Name of the sample; of a group that of the group, of a gather `_cohort`.
    sample: str
    #: Name of the step in the pipeline.
    step: str
    #: The scratch folder that is the working directory.
    work: Path
    #: Port -> files, in the declared order.
    input_files: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    #: Port -> sample -> files, for a gather; for a group its members, and `{sample}@{part}` for what gathers parts.
    gathered_files: Mapping[str, Mapping[str, tuple[Path, ...]]] = field(default_factory=dict)
    #: Port -> its folder, of input ports that read a directory.
    input_folders: Mapping[str, Path] = field(default_factory=dict)
    #: Port -> sample -> its folder, of gathered ports that read a directory.
    gathered_folders: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    #: Port -> files of the reference, in the declared order.
    reference_files: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    #: Port -> names of the outputs, relative to `work`; that of a directory ends with a slash.
    output_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Port -> patterns, relative to `work`, of output ports with any number of files.
    output_patterns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Upstream step -> the receipt's metrics of the same sample.
    upstream_metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: For a gather: step -> sample -> the receipt's metrics.
    gathered_metrics: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    #: Samples that a gather does without.
    missing_samples: tuple[str, ...] = ()
    #: Samples of which a gathered port has nothing, for the condition of its step (`Step.when`) excludes them.
    excluded_samples: tuple[str, ...] = ()
    #: Parameter -> value; a step finds them as its attributes too.
    params: Mapping[str, Any] = field(default_factory=dict)
    #: Column of the sheet that the step declares -> the sample's value.
    columns: Mapping[str, Any] = field(default_factory=dict)
    #: For a gather that declares columns: sample -> column -> value, in the order of the sample list.
    gathered_columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: vCPUs that it may use.
    cpus: int = 1
    #: MiB of memory that it may use.
    memory_mb: int = 1024
    #: Counted from 1.
    attempt: int = 1
    #: Id of the run that sent it.
    run_id: str = ""
    #: Name of the reference, or empty.
    reference_name: str = ""
    #: Of a step of parts: the part as it is written.
    part: str = ""
    #: What the step noted; goes into the receipt.
    metrics: dict[str, Any] = field(default_factory=dict)
    #: Tool -> version; goes into the receipt.
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """Of a step of groups: the name of the group."""
        return self.sample

    def input(self, port: str) -> Path:
        """The one file of an input port. Raises ContractBroken when it has several."""
        files = self.inputs(port)
        if port in self.input_folders:
            raise ContractBroken(
                f"Input {port!r} of {self.step} is a directory; use job.input_directory({port!r}), or job.inputs."
            )
        if len(files) != 1:
            raise ContractBroken(f"Input {port!r} of {self.step} has {len(files)} files; use job.inputs({port!r}).")
        return files[0]

    def inputs(self, port: str) -> tuple[Path, ...]:
        """The files of an input port, in the order in which the upstream step declares them.

        Those of a directory, and of an output with `many`, are sorted by name.
        There are none of an optional port that is not connected, or for which the sample has nothing.
        """
        return self._of(self.input_files, port, "input")

    def input_directory(self, port: str) -> Path:
        """The folder of an input port that reads a directory, with its whole tree; empty where that is optional."""
        return self._of(self.input_folders, port, "input directory")

    def gathered(self, port: str) -> Mapping[str, tuple[Path, ...]]:
        """For a gather: sample -> files, in the order of the sample list."""
        return self._of(self.gathered_files, port, "gathered input")

    def gathered_directories(self, port: str) -> Mapping[str, Path]:
        """For a gather of a directory: sample -> its folder, in the order of the sample list."""
        return self._of(self.gathered_folders, port, "gathered directory")

    def reference(self, port: str) -> Path:
        """The one file of a reference port. Raises ContractBroken when it has several."""
        files = self.references(port)
        if len(files) != 1:
            raise ContractBroken(
                f"Reference {port!r} of {self.step} has {len(files)} files; use job.references({port!r})."
            )
        return files[0]

    def references(self, port: str) -> tuple[Path, ...]:
        """The files of a reference port, in the declared order; read-only, shared with other jobs of the host.

        They lie beside each other, as below `references/{name}/` in the store.
        """
        return self._of(self.reference_files, port, "reference")

    def output(self, port: str) -> Path:
        """Where the one file, or the directory, of an output port is expected; the directory is there."""
        files = self.outputs(port)
        if len(files) != 1:
            raise ContractBroken(f"Output {port!r} of {self.step} has {len(files)} files; use job.outputs({port!r}).")
        return files[0]

    def outputs(self, port: str) -> tuple[Path, ...]:
        """Where the files of an output port are expected, in the declared order; with `many`, those that are there."""
        names = self._of({**self.output_names, **self.output_patterns}, port, "output")
        if port in self.output_patterns:
            from batch_pipeline.wire.file_patterns import files_matching

            names = tuple(files_matching(self.work, names))
        return tuple(self.work / name for name in names)

    def run(
        self,
        program: str | Path,
        *arguments: object,
        stdin: str | Path | None = None,
        stdout: str | Path | None = None,
        stderr: str | Path | None = None,
        name: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> ToolOutput:
        """Runs a tool in the working directory until it ends; what it prints goes to the cell's log, and is returned.

        Parameters
        ----------
        stdin: a file that it reads.
        stdout: a file that gets its standard output instead of the log.
        stderr: a file that gets its standard error besides the log.
        name: what messages call it, if not by the program's name.
        environment: variables set for it besides the cell's own.

        Raises StepFailed, DiskFull: see `wire.tools.run_tools`.
        """
        return self._run([(program, *arguments)], stdin, stdout, stderr, name, environment)

    def pipe(
        self,
        *commands: Sequence[object],
        stdin: str | Path | None = None,
        stdout: str | Path | None = None,
        stderr: str | Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> ToolOutput:
        """Runs tools of which each reads what the one before it writes: `job.pipe(("bwa", "mem", …), ("samtools", …))`.

        As `run`, and the exit code of each is checked: the first that failed by itself is named.
        """
        return self._run(commands, stdin, stdout, stderr, "", environment)

    def _run(
        self,
        commands: Sequence[Sequence[object]],
        stdin: str | Path | None,
        stdout: str | Path | None,
        stderr: str | Path | None,
        name: str,
        environment: Mapping[str, str] | None,
    ) -> ToolOutput:
        # A job is made in each container; what runs tools is imported where a step runs one.
        from batch_pipeline.wire.tools import Streams, run_tools

        paths = [None if path is None else self.work / path for path in (stdin, stdout, stderr)]
        streams = Streams(stdin=paths[0], stdout=paths[1], stderr=paths[2])
        return run_tools(commands, folder=self.work, streams=streams, name=name, environment=environment)

    def note(self, **metrics: Any) -> None:
        """Keeps numbers or short texts for the receipt; the same name again replaces."""
        self.metrics.update(metrics)

    def version(self, tool: str, version: str) -> None:
        """Keeps a tool's version for the receipt."""
        self.versions[tool] = version

    def _of(self, table: Mapping[str, T], port: str, kind: str) -> T:
        if port not in table:
            known = ", ".join(sorted(table)) or "none"
            raise ContractBroken(f"Step {self.step} has no {kind} {port!r}; it has: {known}.")
        return table[port]


def text_of(value: Any) -> str:
    """A value as options, variables, commands and names of files have it: a flag is `true` or `false`."""
    return str(value).lower() if isinstance(value, bool) else str(value)
