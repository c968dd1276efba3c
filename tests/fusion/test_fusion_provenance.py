"""From a fusion in a cohort's table back to commit, command, image, tools, reference and BAM; and one flipped byte."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.wire.store import open_store
from tests.fusion.conftest import REFERENCE, Cohort
from tests.fusion.prompt import REPOSITORY, Prompt, Said

pytestmark = [pytest.mark.engine, pytest.mark.tools, pytest.mark.xdist_group("fusion")]

IMAGE = "registry.example.org/lab/kallisto@sha256:" + "5e" * 32
PIPELINE = '''"""The gene fusion pipeline, and one table of all fusions."""

from __future__ import annotations

from batch_pipeline import Input, Job, Output, Scope, Step, WorkflowTask
from steps.kallisto import Kallisto
from steps.picard import Picard
from steps.pizzly import Pizzly
from steps.reference import BuildReference


class Table(Step):
    """One table of the fusions of all samples."""

    scope = Scope.COHORT
    memory_mb = 64

    tables = Input()
    table = Output("fusions.tsv")

    def run(self, job: Job) -> None:
        """The sample before each line."""
        lines = [
            f"{sample}\\t{line}\\n"
            for sample, (path,) in job.gathered("tables").items()
            for line in path.read_text().splitlines()[1:]
        ]
        job.output("table").write_text("".join(lines))


class CohortFusions(WorkflowTask):
    """Finds gene fusions in RNA-seq samples, and lists them together."""

    reference_builder = BuildReference

    def workflow(self) -> None:
        """Wires the steps, and the table behind the last."""
        picard = self.new_task("picard", Picard)
        kallisto = self.new_task("kallisto", Kallisto)
        pizzly = self.new_task("pizzly", Pizzly)
        table = self.new_task("table", Table)

        picard.in_bam = self.source("{sample}.bam")
        kallisto.in_reads = picard.out_fastq
        pizzly.in_fusion = kallisto.out_fusion
        table.in_tables = pizzly.out_table


if __name__ == "__main__":
    CohortFusions.main()
'''


class Lab:
    """A repository with the pipeline, and a store that it has filled."""

    def __init__(self, folder: Path, prompt: Prompt, cohort: Cohort) -> None:
        self.folder = folder
        self._environment = prompt.environment
        shutil.copytree(REPOSITORY / "steps", folder / "steps", ignore=shutil.ignore_patterns("__pycache__"))
        kallisto = folder / "steps" / "kallisto.py"
        text = kallisto.read_text()
        kallisto.write_text(text.replace('tools = ("kallisto",)', f'tools = ("kallisto",)\n    image = "{IMAGE}"'))
        assert kallisto.read_text() != text
        (folder / "cohort.py").write_text(PIPELINE)
        (folder / ".gitignore").write_text("store/\n__pycache__/\n*.txt\n*.gz\n")
        self.git("init", "-q", "-b", "main")
        self.git("add", ".")
        self.git("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "commit", "-q", "-m", "Begin")
        self.git("remote", "add", "origin", "https://ada:hunter2@example.org/lab/fusions.git")
        self.commit = self.git("rev-parse", "HEAD")
        self.store = open_store(str(folder / "store" / "lab"), create=True)
        for sample in ("sim02", "sim03"):
            path = folder / "store" / "lab" / "SR" / f"{sample}.bam"
            path.parent.mkdir(exist_ok=True)
            cohort.write(path, sample)
        (folder / "list.txt").write_text("sim02\nsim03\n")
        self("reference", REFERENCE, "--fasta", str(cohort.fasta), "--gtf", str(cohort.gtf))
        self("run", "--sample-list-file", "list.txt", "--strandedness", "none", "--description", "for the paper")

    def __call__(self, *words: str, code: int = 0) -> Said:
        ran = subprocess.run(
            [sys.executable, "cohort.py", *words, "--bucket-name", "lab"],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert ran.returncode == code, ran.stdout + ran.stderr
        return Said(code=ran.returncode, out=ran.stdout, err=ran.stderr)

    def git(self, *words: str) -> str:
        ran = subprocess.run(["git", "-C", str(self.folder), *words], check=True, capture_output=True, text=True)
        return ran.stdout.strip()


@pytest.fixture(scope="module")
def lab(prompt: Prompt, cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"), prompt, cohort)


def cell(told: dict[str, Any], step: str) -> dict[str, Any]:
    [found] = (one for one in told["cells"] if one["step"] == step)
    return dict(found)


def test_a_fusion_in_the_cohorts_table_is_traced_to_all_that_it_came_from(lab: Lab, cohort: Cohort) -> None:
    rows = (lab.folder / "store/lab/cohort/table/fusions.tsv").read_text().splitlines()
    assert {row.split("\t")[0] for row in rows} == {"sim03"}

    told = lab("trace", "store/lab/cohort/table/fusions.tsv", "--samples", "sim03", "--json").json

    assert {(one["step"], one["sample"]) for one in told["cells"]} == {
        ("table", "_cohort"),
        ("pizzly", "sim03"),
        ("kallisto", "sim03"),
        ("picard", "sim03"),
        ("reference", REFERENCE),
    }
    kallisto = cell(told, "kallisto")
    assert {one["commit"] for one in told["cells"]} == {lab.commit}
    assert {one["repository"] for one in told["cells"]} == {"https://example.org/lab/fusions.git"}
    assert not kallisto["dirty"]
    assert kallisto["argv"][:3] == ["run", "--sample-list-file", "list.txt"]
    assert kallisto["image"] == IMAGE
    version = subprocess.run(["kallisto", "version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    assert kallisto["versions"] == {"kallisto": version}
    files = {one["key"]: one for one in kallisto["inputs"]}
    index = lab.folder / "store" / "lab" / "references" / REFERENCE / "kallisto.idx"
    assert files[f"references/{REFERENCE}/kallisto.idx"]["sha256"] == hashlib.sha256(index.read_bytes()).hexdigest()
    sources = {one["key"]: one for one in told["sources"]}
    assert sources["SR/sim03.bam"]["etag"] == lab.store.head("SR/sim03.bam").etag
    assert f"file://{cohort.fasta}" in sources
    assert told["problems"] == []


def test_the_tree_says_the_same_in_words(lab: Lab) -> None:
    told = lab("trace", "cohort/table/fusions.tsv", "--samples", "sim03").out
    for words in (
        f"https://example.org/lab/fusions.git {lab.commit}",
        "command: run --sample-list-file list.txt",
        f"image: {IMAGE}",
        "tools: kallisto 0.",
        f"references/{REFERENCE}/kallisto.idx (",
        f"ETag {lab.store.head('SR/sim03.bam').etag}, a source",
    ):
        assert words in told
    assert "hunter2" not in told


def test_no_secret_is_anywhere_in_the_store(lab: Lab) -> None:
    found = [path for path in (lab.folder / "store").rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]
    assert found == []


def test_one_flipped_byte_is_found_by_name(lab: Lab) -> None:
    assert "as the receipts say" in lab("verify", "last").out
    path = lab.folder / "store" / "lab" / "results" / "kallisto" / "sim03" / "abundance.tsv"
    data = path.read_bytes()
    path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    try:
        told = lab("verify", "last", code=1)
    finally:
        path.write_bytes(data)
    assert told.out.startswith("results/kallisto/sim03/abundance.tsv: Its SHA-256 is")
    assert "1 file of " in told.out
    assert json.loads(lab("verify", "--all", "--json").out)["ok"] is True
