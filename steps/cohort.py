"""The tables of a cohort: fusions and abundances of all samples.

Samples that failed are left out; the page names them, and so does the QC table of `multiqc.py`.
Memory does not grow with the samples: sums by gene go to a file of the scratch folder, a row a sample, and the matrices
are written from it some genes at a time. The same inputs make the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch_pipeline import Input, Job, MissingInput, Output, Reference, Scope, Step
from steps.cohort_fusions import NOTHING, CohortFusions, FusedGenes, fusion_rows
from steps.fusion_page import fusion_page
from steps.gzipped import gzip_writer
from steps.published import TranscriptRow, transcripts

if TYPE_CHECKING:
    import numpy
    import numpy.typing
    import polars

#: Bytes of a matrix that are in memory at once.
_CHUNK_BYTES: Final = 16 << 20
_FLOAT_BYTES: Final = 8


class Cohort(Step):
    """Gathers the fusions and abundances of all samples in tables and a page."""

    scope = Scope.COHORT
    tolerant = True
    memory_mb = 2048

    tables = Input("Each sample's fusions.tsv.")
    abundances = Input("Each sample's abundance.tsv.")
    transcripts = Reference("transcripts.tsv")
    fusions = Output("fusions.tsv", help="All fusions of all samples; a sample without any has one line of dots.")
    matrix = Output("fusion_matrix.tsv", help="Supporting reads, fusions by samples, recurrent fusions first.")
    gene_counts = Output("gene_counts.tsv.gz", help="Estimated counts, genes by samples: sums over transcripts.")
    gene_tpm = Output("gene_tpm.tsv.gz", help="Transcripts per million, genes by samples: sums over transcripts.")
    transcript_table = Output("transcripts.tsv.gz", help="Sample, transcript, counts, TPM, where counts are not 0.")
    page = Output("fusions.html", help="Fusions by samples, as a picture.")

    def run(self, job: Job) -> None:
        """Writes the tables of fusions, their page, and the matrices."""
        cohort = _gather_fusions(job)
        ranked = cohort.ranked()
        _write_matrix(job.output("matrix"), cohort, ranked)
        cells = [(pair.name, cohort.support[pair]) for pair in ranked]
        job.output("page").write_text(fusion_page(cohort.samples, cells, job.missing_samples), encoding="utf-8")
        _gather_abundances(job, transcripts(job.reference("transcripts")))
        job.note(samples=len(cohort.samples), missing_samples=len(job.missing_samples), fusions=len(ranked))


def _gather_fusions(job: Job) -> CohortFusions:
    """Writes all fusions of all samples into one table."""
    cohort = CohortFusions()
    common = ""
    with job.output("fusions").open("w", encoding="utf-8") as table:
        for sample, (path,) in job.gathered("tables").items():
            header, rows = fusion_rows(path, sample)
            if not common:
                common = header
                table.write(header + "\n")
            elif header != common:
                raise MissingInput(f"{path.name} of sample {sample} has other columns than others'; run pizzly again.")
            dots = [NOTHING] * header.count("\t")
            table.writelines([row.line for row in rows] or ["\t".join([sample, *dots]) + "\n"])
            cohort.add(sample, rows)
    return cohort


def _write_matrix(path: Path, cohort: CohortFusions, ranked: Sequence[FusedGenes]) -> None:
    with path.open("w", encoding="utf-8") as table:
        header = ("fusion", "gene_a", "gene_b", "gene_a_id", "gene_b_id", "samples", *cohort.samples)
        table.write("\t".join(header) + "\n")
        for pair in ranked:
            support = cohort.support[pair]
            cells = (pair.name, pair.gene_a, pair.gene_b, pair.gene_a_id, pair.gene_b_id, len(support))
            counts = (support.get(sample, 0) for sample in cohort.samples)
            table.write("\t".join(map(str, (*cells, *counts))) + "\n")


def _gather_abundances(job: Job, reference: Mapping[str, TranscriptRow]) -> None:
    """Writes counts and TPM: by transcript as they come, by gene through scratch files."""
    import numpy
    import polars

    ids = polars.Series("target_id", list(reference))
    published = polars.Series("transcript_id", [row.published_id for row in reference.values()])
    # A transcript of the FASTA alone, such as a spike-in, has no gene: it is a row of its own.
    rows = [
        (row.published_gene_id or row.published_id, row.gene_name or row.published_id) for row in reference.values()
    ]
    genes = dict(rows)
    numbers = {gene: number for number, gene in enumerate(genes)}
    gene_of = numpy.array([numbers[gene] for gene, _ in rows])
    scratch = {measure: job.work / f".{measure}" for measure in ("counts", "tpm")}
    with ExitStack() as stack:
        sums = {measure: stack.enter_context(path.open("wb")) for measure, path in scratch.items()}
        long = stack.enter_context(gzip_writer(job.output("transcript_table")))
        long.write(b"sample\ttranscript_id\tcounts\ttpm\n")
        for sample, (path,) in job.gathered("abundances").items():
            frame = _abundance(path, sample, ids)
            for measure, file in sums.items():
                values = _numbers(frame[measure], path, sample)
                file.write(numpy.bincount(gene_of, weights=values, minlength=len(genes)).tobytes())
            named = frame.select(polars.lit(sample), published, "counts", "tpm").filter(polars.col("counts") != "0")
            long.write(_lines(named))
    for measure, port in (("counts", "gene_counts"), ("tpm", "gene_tpm")):
        _write_genes(job.output(port), scratch[measure], genes, list(job.gathered("abundances")))
        scratch[measure].unlink()


def _abundance(path: Path, sample: str, ids: polars.Series) -> polars.DataFrame:
    """A sample's counts and TPM, as kallisto wrote them. Raises MissingInput when it lists other transcripts."""
    import polars

    frame = polars.read_csv(path, separator="\t", infer_schema=False)
    if not frame["target_id"].equals(ids):
        raise MissingInput(
            f"{path.name} of sample {sample} does not list the {len(ids)} transcripts of the reference; run kallisto "
            "again with this reference."
        )
    return frame.select(counts="est_counts", tpm="tpm")


def _numbers(column: polars.Series, path: Path, sample: str) -> numpy.typing.NDArray[numpy.float64]:
    """A column as numbers. Raises MissingInput where one is none, such as kallisto's `-nan`."""
    import polars

    values = column.cast(polars.Float64, strict=False)
    if not values.is_finite().fill_null(False).all():
        raise MissingInput(
            f"{path.name} of sample {sample} has a value of {column.name} that is no number; run kallisto again."
        )
    return values.to_numpy()


def _write_genes(path: Path, scratch: Path, genes: Mapping[str, str], samples: Sequence[str]) -> None:
    """Transposes a scratch file, a row a sample, into a table with a row a gene."""
    import numpy
    import polars

    step = max(1, _CHUNK_BYTES // (_FLOAT_BYTES * max(1, len(samples))))
    ids, names = list(genes), list(genes.values())
    with gzip_writer(path) as out, scratch.open("rb") as rows:
        out.write("\t".join(["gene_id", "gene_name", *samples]).encode() + b"\n")
        for first in range(0, len(ids), step):
            last = min(first + step, len(ids))
            chunk = numpy.empty((len(samples), last - first))
            for number, row in enumerate(chunk):
                rows.seek(_FLOAT_BYTES * (number * len(ids) + first))
                row[:] = numpy.frombuffer(rows.read(row.nbytes))
            # kallisto gives six digits; what a sum has behind its ninth decimal is no digit of it.
            # Numbers name the columns here: a sample may be called `gene_id` or `self`.
            values = {str(number): row for number, row in enumerate(chunk.round(9))}
            out.write(_lines(polars.DataFrame({"gene_id": ids[first:last], "gene_name": names[first:last], **values})))


def _lines(frame: polars.DataFrame) -> bytes:
    """The rows as tab-separated text."""
    return frame.write_csv(include_header=False, separator="\t").encode()
