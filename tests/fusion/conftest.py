"""One embedded Batch, one prompt and one made-up cohort for the session: the real tools cost seconds a sample."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batch_pipeline.demo.bam import Pair, write_bam
from batch_pipeline.demo.real import cache_folder
from batch_pipeline.demo.simulate import Library, design_cohort, simulate_sample
from batch_pipeline.demo.transcriptome import generate_transcriptome, read_transcriptome
from batch_pipeline.localbatch.client import stop
from tests.fusion.prompt import REPOSITORY, Bucket, Prompt, environment
from tests.leftovers import keep_until_the_end

#: The user's own, before the tests get a home of their own: the archive is fetched once a machine.
CACHE = cache_folder()
REFERENCE = "made_up"


class Cohort:
    """Samples on 30 made-up genes: `sim01` and `sim02` without fusions, `sim03` to `sim05` with some."""

    def __init__(self, folder: Path) -> None:
        self.fasta, self.gtf = folder / "transcripts.fasta.gz", folder / "genes.gtf.gz"
        generate_transcriptome(self.fasta, self.gtf, seed=5, genes=30)
        transcripts = read_transcriptome(self.fasta, self.gtf)
        self.fusions: dict[str, set[tuple[str, str]]] = {}
        self.pairs: dict[str, list[Pair]] = {}
        for sample in design_cohort(transcripts, seed=5, samples=5):
            reads = simulate_sample(sample, transcripts, seed=5, library=Library(pairs=2_000))
            self.fusions[sample.name] = {fusion.pair for fusion in reads.truth}
            self.pairs[sample.name] = list(reads.pairs)

    def write(self, path: Path, sample: str, *, times: int = 1) -> Path:
        """Writes a sample's BAM, under the file's name."""
        write_bam(path, path.stem, self.pairs[sample] * times)
        return path


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return Cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="session")
def prompt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prompt]:
    """A folder with copies of the pipeline's files, which tests may edit."""
    folder = tmp_path_factory.mktemp("prompt")
    keep_until_the_end(folder)
    (folder / "home").mkdir()
    shutil.copy(REPOSITORY / "main.py", folder)
    shutil.copytree(REPOSITORY / "steps", folder / "steps", ignore=shutil.ignore_patterns("__pycache__"))
    yield Prompt(folder=folder, environment=environment(folder, CACHE.parent))
    stop(folder / "engine")  # or it has stopped by itself: idle for long


@pytest.fixture(scope="session")
def new_bucket(prompt: Prompt, cohort: Cohort) -> Callable[[str], Bucket]:
    """Makes a store that has the made-up reference and no samples."""

    def make(name: str) -> Bucket:
        bucket = Bucket(prompt=prompt, name=name)
        build_reference(bucket, REFERENCE, cohort.fasta, cohort.gtf)
        return bucket

    return make


def build_reference(bucket: Bucket, name: str, fasta: Path, gtf: Path) -> None:
    bucket.folder.mkdir(parents=True, exist_ok=True)
    bucket.prompt("reference", name, "--fasta", str(fasta), "--gtf", str(gtf), "--bucket-name", bucket.name)
