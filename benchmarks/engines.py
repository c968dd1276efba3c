"""The engines that `cells` compares: each makes in/S.txt -> 1 -> 2 -> 3 for many samples S, with two slots.

Every engine gets a folder of its own. What it writes to run itself (a Makefile, a Luigi module) is here, as short as
its own documentation would have it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.peers import Peers

SLOTS = 2
STEPS = (1, 2, 3)
_HERE = Path(__file__).resolve().parent
#: Of the caller's variables the commands see these: nobody's settings decide a benchmark.
_PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")


def passed_environment() -> dict[str, str]:
    """The caller's variables that a measured command sees."""
    return {name: os.environ[name] for name in _PASSED if name in os.environ}


class Engine:
    """Base of all engines: a plain folder with in/S.txt and out/S.1, S.2, S.3."""

    name = ""
    #: How it makes what is missing, for people.
    notes = ""
    #: So many samples are the most that it is asked to do; a slow engine would take hours.
    most_samples = 1_000_000

    def __init__(self, folder: Path, samples: int) -> None:
        self.folder = folder
        self.samples = samples

    def prepare(self) -> None:
        """Makes the folder with the samples' files and what the engine needs, before anything is measured."""
        for name in ("in", "out"):
            (self.folder / name).mkdir(parents=True)
        for sample in range(self.samples):
            (self.folder / "in" / f"{sample}.txt").write_text(f"sample {sample}\n")

    def command(self) -> Sequence[str]:
        """The command that makes what is missing; the same for the first run and for reruns."""
        raise NotImplementedError

    def checking(self) -> Sequence[str]:
        """The command that does the same and looks at the results too; empty: there is none."""
        return []

    def environment(self) -> Mapping[str, str]:
        """The command's variables."""
        return passed_environment()

    def output(self, sample: int, step: int) -> Path:
        """Where a result lies."""
        return self.folder / "out" / f"{sample}.{step}"

    def forget(self, samples: Sequence[int]) -> None:
        """Takes away all three results of some samples."""
        for sample in samples:
            for step in STEPS:
                self.output(sample, step).unlink()

    def wrong(self) -> int:
        """How many results are missing or have other bytes than they should."""
        return sum(
            not path.is_file() or path.read_text() != f"sample {sample}\n"
            for sample in range(self.samples)
            for path in (self.output(sample, step) for step in STEPS)
        )

    def stop(self) -> None:
        """Ends what it left running."""


class Ours(Engine):
    """The embedded Batch with a store of its own in the folder; the server starts with the first command."""

    name = "batch_pipeline"
    notes = "a script step a cell: manifest, staged input, digest, log, receipt"

    def prepare(self) -> None:
        """See `Engine.prepare`."""
        super().prepare()
        (self.folder / "store").mkdir()
        (self.folder / "in").rename(self.folder / "store" / "SR")
        names = "".join(f"{sample}\n" for sample in range(self.samples))
        (self.folder / "samples.txt").write_text(names)

    def command(self) -> Sequence[str]:
        """See `Engine.command`."""
        return [
            sys.executable,
            str(_HERE / "copies" / "pipeline.py"),
            *("--sample-list-file", "samples.txt", "--store", str(self.folder / "store")),
        ]

    def checking(self) -> Sequence[str]:
        """See `Engine.checking`."""
        return [*self.command(), "--check-results"]

    def environment(self) -> Mapping[str, str]:
        """See `Engine.environment`."""
        return {
            **super().environment(),
            "PYTHONPATH": str(_HERE.parent),
            "BATCH_PIPELINE__EMBEDDED__STATE": str(self.state),
            "BATCH_PIPELINE__EMBEDDED__VCPUS": str(SLOTS),
        }

    @property
    def state(self) -> Path:
        """The embedded server's folder."""
        return self.folder / "state"

    def output(self, sample: int, step: int) -> Path:
        """See `Engine.output`."""
        name = ("one", "two", "three")[step - 1]
        return self.folder / "store" / "results" / name / str(sample) / "y"

    def forget(self, samples: Sequence[int]) -> None:
        """See `Engine.forget`. The receipts too: they alone prove that a cell is done."""
        super().forget(samples)
        for sample in samples:
            for name in ("one", "two", "three"):
                shutil.rmtree(self.folder / "store" / "receipts" / name / str(sample))

    def stop(self) -> None:
        """See `Engine.stop`."""
        from batch_pipeline.localbatch.client import stop

        stop(self.state)


class Unsynced(Ours):
    """The same, but nothing waits for the disk."""

    name = "without syncs"
    notes = "batch_pipeline with `copies/unsynced`"

    def environment(self) -> Mapping[str, str]:
        """See `Engine.environment`."""
        environment = super().environment()
        return {**environment, "PYTHONPATH": f"{_HERE / 'copies' / 'unsynced'}:{environment['PYTHONPATH']}"}


class Durable(Engine):
    """The bound; see `bound.py`."""

    name = "durable bound"
    notes = "60 lines: sh -ec a step, a log each, rename, SQLite record"

    def command(self) -> Sequence[str]:
        """See `Engine.command`."""
        return [sys.executable, str(_HERE / "bound.py"), str(self.folder), str(self.samples), str(SLOTS)]


class Xargs(Engine):
    """`xargs -P2 -n2 cp`, three passes with a barrier between; what is there is left out."""

    name = "xargs -P2"
    notes = "no record, no log, a torn copy counts as done"

    def prepare(self) -> None:
        """See `Engine.prepare`."""
        super().prepare()
        passes = []
        for step in STEPS:
            source = "in/$s.txt" if step == 1 else f"out/$s.{step - 1}"
            passes.append(
                f"while read -r s; do [ -e out/$s.{step} ] || echo {source} out/$s.{step}; done <samples.txt"
                f" | xargs -r -P{SLOTS} -n2 cp"
            )
        (self.folder / "samples.txt").write_text("".join(f"{sample}\n" for sample in range(self.samples)))
        (self.folder / "run.sh").write_text("set -e\n" + "\n".join(passes) + "\n")

    def command(self) -> Sequence[str]:
        """See `Engine.command`."""
        return ["sh", "run.sh"]


class Make(Engine):
    """GNU make with pattern rules."""

    name = "make -j2"
    notes = "no record, no log"

    def prepare(self) -> None:
        """See `Engine.prepare`."""
        super().prepare()
        last = " ".join(f"out/{sample}.3" for sample in range(self.samples))
        rules = "out/%.1: in/%.txt\n\t@cp $< $@\nout/%.2: out/%.1\n\t@cp $< $@\nout/%.3: out/%.2\n\t@cp $< $@\n"
        (self.folder / "Makefile").write_text(f"all: {last}\n{rules}.SECONDARY:\n")

    def command(self) -> Sequence[str]:
        """See `Engine.command`."""
        return ["make", "-s", f"-j{SLOTS}"]


class Luigi(Engine):
    """Luigi with its local scheduler and one worker, which is its faster way for tiny tasks."""

    name = "luigi"
    notes = "one worker: with two it forks a process a task and takes twice as long"
    most_samples = 2_000

    def prepare(self) -> None:
        """See `Engine.prepare`."""
        super().prepare()
        (self.folder / "tasks.py").write_text(_LUIGI.replace("SAMPLES", str(self.samples)))

    def command(self) -> Sequence[str]:
        """See `Engine.command`."""
        return [sys.executable, "tasks.py"]


class Doit(Engine):
    """doit with two processes."""

    name = "doit"
    notes = "-n 2, its record in dbm"

    def __init__(self, folder: Path, samples: int, peers: Peers) -> None:
        super().__init__(folder, samples)
        self._peers = peers

    def prepare(self) -> None:
        """See `Engine.prepare`."""
        super().prepare()
        (self.folder / "dodo.py").write_text(_DOIT.replace("SAMPLES", str(self.samples)))

    def command(self) -> Sequence[str]:
        """See `Engine.command`."""
        return [self._peers.program("doit"), "-n", str(SLOTS), "-v", "0"]


class Snakemake(Engine):
    """Snakemake with its greedy scheduler, more than twice as fast as its default one here."""

    name = "snakemake"
    notes = "--scheduler greedy; the default one takes twice as long"
    most_samples = 2_000

    def __init__(self, folder: Path, samples: int, peers: Peers) -> None:
        super().__init__(folder, samples)
        self._peers = peers

    def prepare(self) -> None:
        """See `Engine.prepare`."""
        super().prepare()
        (self.folder / "Snakefile").write_text(_SNAKEMAKE.replace("SAMPLES", str(self.samples)))

    def command(self) -> Sequence[str]:
        """See `Engine.command`."""
        return [self._peers.program("snakemake"), "--cores", str(SLOTS), "--scheduler", "greedy", "--quiet", "all"]

    def environment(self) -> Mapping[str, str]:
        """See `Engine.environment`."""
        return {**super().environment(), "XDG_CACHE_HOME": str(self.folder / "cache")}


_LUIGI = """\
import subprocess

import luigi


class Copy(luigi.Task):
    sample = luigi.IntParameter()
    step = luigi.IntParameter()

    def requires(self):
        return Copy(sample=self.sample, step=self.step - 1) if self.step > 1 else []

    def output(self):
        return luigi.LocalTarget(f"out/{self.sample}.{self.step}")

    def run(self):
        source = f"out/{self.sample}.{self.step - 1}" if self.step > 1 else f"in/{self.sample}.txt"
        subprocess.run(["cp", source, self.output().path], check=True)


class All(luigi.WrapperTask):
    def requires(self):
        return [Copy(sample=sample, step=3) for sample in range(SAMPLES)]


if __name__ == "__main__":
    assert luigi.build([All()], workers=1, local_scheduler=True, log_level="WARNING")
"""

_DOIT = """\
def task_copy():
    for sample in range(SAMPLES):
        source = f"in/{sample}.txt"
        for step in (1, 2, 3):
            target = f"out/{sample}.{step}"
            yield {"name": f"{sample}.{step}", "actions": [["cp", source, target]],
                   "file_dep": [source], "targets": [target]}
            source = target
"""

_SNAKEMAKE = """\
rule all:
    input: [f"out/{sample}.3" for sample in range(SAMPLES)]

rule one:
    input: "in/{sample}.txt"
    output: "out/{sample}.1"
    shell: "cp {input} {output}"

rule two:
    input: "out/{sample}.1"
    output: "out/{sample}.2"
    shell: "cp {input} {output}"

rule three:
    input: "out/{sample}.2"
    output: "out/{sample}.3"
    shell: "cp {input} {output}"
"""


def versions(peers: Peers) -> Iterator[tuple[str, str]]:
    """Name and version of everything that is compared."""
    from importlib.metadata import version

    for package in ("batch-pipeline", "luigi", "obstore", "boto3"):
        yield package, version(package)
    yield from peers.versions()
    for program in ("make", "xargs"):
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        yield program, said.split("\n", 1)[0].rsplit(" ", 1)[-1]
