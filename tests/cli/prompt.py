"""Commands as processes, given in a folder; and a pipeline whose first step ends when it may."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = '''
"""Two steps for tests."""
from __future__ import annotations

import time
from pathlib import Path

from batch_pipeline import Input, Job, Output, Param, Step, StepFailed, WorkflowTask


class Upper(Step):
    """Makes letters large."""

    memory_mb = 32
    text = Input()
    upper = Output("upper.txt")
    hold: str = Param("", help="A file; the step ends when it is there.")

    def run(self, job: Job) -> None:
        text = job.input("text").read_text()
        print("shouting", text.strip(), flush=True)
        while self.hold and not Path(self.hold).exists():
            time.sleep(0.02)
        if "bad" in text:
            raise StepFailed(f"Sample {job.sample} has a bad word. Fix it.")
        job.output("upper").write_text(text.upper())


class Count(Step):
    """Counts letters."""

    memory_mb = 32
    text = Input()
    count = Output("count.txt")

    def run(self, job: Job) -> None:
        job.output("count").write_text(str(len(job.input("text").read_text())))


class Letters(WorkflowTask):
    """Counts large letters."""

    def workflow(self) -> None:
        upper, count = self.new_task("upper", Upper), self.new_task("count", Count)
        upper.in_text = self.source("{sample}.txt")
        count.in_text = upper.out_upper


if __name__ == "__main__":
    Letters.main()
'''


def lay_out(folder: Path, sources: Path) -> None:
    """Puts the pipeline and the list of its three samples into a folder, and their files among the sources."""
    sources.mkdir(parents=True)
    for name in ("S1", "S2", "S3"):
        (sources / f"{name}.txt").write_text(f"letters of {name}\n")
    (folder / "list.txt").write_text("S1\nS2\nS3\n")
    (folder / "main.py").write_text(PIPELINE)


def started(
    command: Sequence[str | Path], folder: Path, environment: Mapping[str, str], umask: int = -1
) -> subprocess.Popen[str]:
    """A command that was given, and what it says to be read."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        umask=umask,
    )


def all_said(process: subprocess.Popen[str], code: int) -> str:
    """What a command says till it ends, which it must do with this code."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, f"{process.args!r}: {process.returncode}\n{out}\n{err}"
    return out + err
