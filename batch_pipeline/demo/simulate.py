"""Simulates a cohort of RNA samples with known gene fusions, as unaligned BAMs.

Everything follows from the seed: who is fused with whom and where, how much each gene is expressed, every read and
error. Two runs make the same bytes. Each fusion gets at least `MIN_CROSSING` fragments over its junction, from which on
pizzly finds every one of them, so a cohort's result can be predicted exactly.

    python -m batch_pipeline.demo.simulate --fasta transcripts.fa.gz --gtf genes.gtf.gz --out cohort/

Samples 1 and 2 have no fusion; the others have one to three, of genes that occur once in that sample; one fusion recurs
in every even sample, so that a cohort's table has something to show.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

from batch_pipeline.demo.bam import Pair, write_bam
from batch_pipeline.demo.transcriptome import (
    Transcript,
    generate_transcriptome,
    read_transcriptome,
    reverse_complement,
)
from batch_pipeline.demo.truth import Fusion, write_truth
from batch_pipeline.wire.errors import BatchPipelineError, InvalidConfig

#: From eight on, 87 of 87 were found; a margin on top.
MIN_CROSSING: Final = 12
#: Bases that a crossing fragment has on either side of the junction.
_OVERHANG: Final = 30
#: Room that a cut leaves on its side of the junction.
_MARGIN: Final = 300
#: Neighbours are no fusions to pizzly below 10,000 bases.
_APART: Final = 20_000
#: Drawn pairs of genes before the transcriptome counts as too small.
_TRIES: Final = 2_000


@dataclass(frozen=True, kw_only=True)
class Library:
    """How a sample is sequenced."""

    #: Pairs from whole transcripts, and from each fusion.
    pairs: int = 10_000
    fusion_pairs: int = 200
    read_length: int = 100
    fragment_mean: float = 250.0
    fragment_deviation: float = 30.0
    #: Wrong bases a base.
    error_rate: float = 0.002


@dataclass(frozen=True, kw_only=True)
class SimulatedFusion:
    """Two transcripts joined at exon boundaries: A up to `position_a`, then B from `position_b`."""

    a: Transcript
    b: Transcript
    position_a: int
    position_b: int

    @property
    def sequence(self) -> str:
        """The fused transcript."""
        return self.a.sequence[: self.position_a] + self.b.sequence[self.position_b :]


@dataclass(frozen=True, kw_only=True)
class SimulatedSample:
    """One sample of the cohort."""

    name: str
    events: tuple[SimulatedFusion, ...]


def design_cohort(transcripts: Sequence[Transcript], *, seed: int, samples: int) -> list[SimulatedSample]:
    """Says which sample gets which fusions. Raises InvalidConfig when the genes are too few."""
    rng = random.Random(f"pick:{seed}")
    used: set[frozenset[str]] = set()
    recurrent = draw_event(rng, transcripts, used, frozenset())
    cohort = []
    for number in range(1, samples + 1):
        wanted = rng.randint(1, 3) if number > 2 else 0
        events = [recurrent] if wanted and number % 2 == 0 else []
        while len(events) < wanted:
            used_genes = frozenset(gene for event in events for gene in (event.a.gene_id, event.b.gene_id))
            events.append(draw_event(rng, transcripts, used, used_genes))
        cohort.append(SimulatedSample(name=f"sim{number:02}", events=tuple(events)))
    return cohort


def draw_event(
    rng: random.Random, transcripts: Sequence[Transcript], used: set[frozenset[str]], used_genes: frozenset[str]
) -> SimulatedFusion:
    """Draws two genes that are not `taken` and whose pair is not `used`, and marks it so, and where they are cut."""
    for _ in range(_TRIES):
        a, b = rng.sample(transcripts, 2) if len(transcripts) > 1 else (transcripts[0], transcripts[0])
        pair = frozenset((a.gene_id, b.gene_id))
        ends = [end for end in a.inner_ends if end >= _MARGIN]
        starts = [start for start in b.inner_ends if len(b.sequence) - start >= _MARGIN]
        if pair in used or pair & used_genes or not ends or not starts or not _far_apart(a, b):
            continue
        used.add(pair)
        return SimulatedFusion(a=a, b=b, position_a=rng.choice(ends), position_b=rng.choice(starts))
    raise InvalidConfig(
        f"The transcriptome has {len(transcripts)} genes to fuse, too few for so many fusions; simulate fewer samples, "
        "or give a larger FASTA and GTF."
    )


def _far_apart(a: Transcript, b: Transcript) -> bool:
    if a.chromosome != b.chromosome:
        return True
    return max(a.gene_start, b.gene_start) - min(a.gene_end, b.gene_end) >= _APART


@dataclass(frozen=True, kw_only=True)
class Reads:
    """A sample's reads, and what is true of them."""

    sample: str
    pairs: list[Pair]
    truth: tuple[Fusion, ...]


def simulate_sample(
    sample: SimulatedSample, transcripts: Sequence[Transcript], *, seed: int, library: Library | None = None
) -> Reads:
    """Draws a sample's reads; the same arguments give the same reads."""
    rng, library = random.Random(f"reads:{seed}:{sample.name}"), library or Library()
    sequencer = _Sequencer(rng=rng, library=library)
    weights = list(accumulate(_expression(rng, transcripts, seed)))
    strands = {t.id: (t.sequence, reverse_complement(t.sequence)) for t in transcripts}
    pairs = [
        sequencer.pair(*strands[t.id], *sequencer.fragment(len(t.sequence)))
        for t in rng.choices(transcripts, cum_weights=weights, k=library.pairs)
    ]
    truth = []
    for event in sample.events:
        sequence = event.sequence
        other = reverse_complement(sequence)
        fragments = sequencer.fragments_over(len(sequence), event.position_a)
        pairs.extend(sequencer.pair(sequence, other, *fragment) for fragment in fragments)
        truth.append(_truth(sample.name, event, fragments, library.read_length))
    rng.shuffle(pairs)
    return Reads(sample=sample.name, pairs=pairs, truth=tuple(truth))


def _expression(rng: random.Random, transcripts: Sequence[Transcript], seed: int) -> Iterator[float]:
    """Fragments of each transcript: the cohort's expression, this sample's deviation from it, and the length."""
    shared = random.Random(f"expression:{seed}")
    for transcript in transcripts:
        yield shared.lognormvariate(0, 1) * rng.lognormvariate(0, 0.3) * len(transcript.sequence)


def _truth(sample_name: str, event: SimulatedFusion, fragments: Sequence[tuple[int, int]], read_length: int) -> Fusion:
    cut = event.position_a
    over = [(start, length) for start, length in fragments if start < cut < start + length]
    spanning = sum(start + read_length <= cut <= start + length - read_length for start, length in over)
    return Fusion(
        sample=sample_name,
        gene_a=event.a.gene_name,
        gene_a_id=event.a.gene_id,
        gene_b=event.b.gene_name,
        gene_b_id=event.b.gene_id,
        transcript_a=event.a.id,
        transcript_b=event.b.id,
        position_a=event.position_a,
        position_b=event.position_b,
        spanning=spanning,
        split=len(over) - spanning,
    )


@dataclass(kw_only=True)
class _Sequencer:
    """Draws fragments and reads their two ends."""

    rng: random.Random
    library: Library

    def __post_init__(self) -> None:
        self._good = "I" * self.library.read_length
        #: Chance that a read has no error at all, and the logarithm of the chance that a base is right.
        self._clean = (1 - self.library.error_rate) ** self.library.read_length
        self._log_right = math.log1p(-self.library.error_rate)

    def fragment(self, length: int) -> tuple[int, int]:
        """Start and length of a fragment of a transcript, anywhere in it."""
        drawn = round(self.rng.normalvariate(self.library.fragment_mean, self.library.fragment_deviation))
        size = min(max(drawn, self.library.read_length), length)
        return int(self.rng.random() * (length - size + 1)), size

    def fragments_over(self, length: int, cut: int) -> list[tuple[int, int]]:
        """A fusion's fragments; the first `MIN_CROSSING` lie over the cut, the rest where they fall."""
        crossing: list[tuple[int, int]] = []
        while len(crossing) < min(MIN_CROSSING, self.library.fusion_pairs):
            _, size = self.fragment(length)
            low, high = max(0, cut + _OVERHANG - size), min(cut - _OVERHANG, length - size)
            if low <= high:
                crossing.append((self.rng.randint(low, high), size))
        return crossing + [self.fragment(length) for _ in range(self.library.fusion_pairs - len(crossing))]

    def pair(self, sequence: str, other: str, start: int, length: int) -> Pair:
        """Reads a fragment from both ends; either may be R1, as in an unstranded library."""
        size = self.library.read_length
        behind = len(sequence) - start - length
        first, second = sequence[start : start + size], other[behind : behind + size]
        if self.rng.random() < 0.5:
            first, second = second, first
        return *self._read(first), *self._read(second)

    def _read(self, bases: str) -> tuple[str, str]:
        # The place of the first error is geometric; four of five reads have none, and cost this one draw.
        chance = 1 - self.rng.random()
        if chance <= self._clean:
            return bases, self._good
        at = int(math.log(chance) / self._log_right)
        read, quality = list(bases), list(self._good)
        while at < len(bases):
            read[at] = self.rng.choice("ACGT".replace(read[at], ""))
            quality[at] = "#"
            at += 1 + int(math.log(1 - self.rng.random()) / self._log_right)
        return "".join(read), "".join(quality)


def simulate_cohort(
    transcripts: Sequence[Transcript], folder: Path, *, seed: int, samples: int, library: Library | None = None
) -> list[Fusion]:
    """Writes `{sample}.bam` for each sample of a cohort into the folder and returns the truth."""
    folder.mkdir(parents=True, exist_ok=True)
    truth: list[Fusion] = []
    for sample in design_cohort(transcripts, seed=seed, samples=samples):
        reads = simulate_sample(sample, transcripts, seed=seed, library=library)
        write_bam(folder / f"{sample.name}.bam", sample.name, reads.pairs)
        truth.extend(reads.truth)
    return truth


def _write(fasta: Path | None, gtf: Path | None, out: Path, *, seed: int, samples: int, library: Library) -> str:
    """Writes a cohort, of a made-up transcriptome if none is given, and returns what was made."""
    if fasta is None or gtf is None:
        fasta, gtf = out / "transcripts.fasta.gz", out / "transcripts.gtf.gz"
        generate_transcriptome(fasta, gtf, seed=seed)
    transcripts = read_transcriptome(fasta, gtf)
    truth = simulate_cohort(transcripts, out, seed=seed, samples=samples, library=library)
    write_truth(out / "truth.tsv", truth)
    return f"{samples} samples with {len(truth)} fusions of {len(transcripts)} genes in {out}"


def _command() -> None:
    import click

    file = click.Path(exists=True, dir_okay=False, path_type=Path)

    @click.command(help="Simulate RNA samples with known gene fusions.")
    @click.option("--fasta", type=file, help="Transcripts; with --gtf. Without both, a random transcriptome is made.")
    @click.option("--gtf", type=file, help="Genes, transcripts and exons of the same release.")
    @click.option(
        "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for BAMs and truth.tsv."
    )
    @click.option("--seed", default=1, show_default=True, help="All that is random follows from it.")
    @click.option(
        "--samples", default=8, show_default=True, type=click.IntRange(1, 999), help="The first two have no fusion."
    )
    @click.option("--pairs", default=Library.pairs, show_default=True, help="Read pairs of whole transcripts a sample.")
    @click.option("--fusion-pairs", default=Library.fusion_pairs, show_default=True, help="Read pairs of each fusion.")
    @click.option("--read-length", default=Library.read_length, show_default=True)
    @click.option("--error-rate", default=Library.error_rate, show_default=True, help="Wrong bases a base.")
    def simulate(
        fasta: Path | None,
        gtf: Path | None,
        out: Path,
        seed: int,
        samples: int,
        pairs: int,
        fusion_pairs: int,
        read_length: int,
        error_rate: float,
    ) -> None:
        if (fasta is None) != (gtf is None):
            raise click.UsageError("--fasta and --gtf go together; leave both out for a random transcriptome.")
        library = Library(pairs=pairs, fusion_pairs=fusion_pairs, read_length=read_length, error_rate=error_rate)
        try:
            summary = _write(fasta, gtf, out, seed=seed, samples=samples, library=library)
        except BatchPipelineError as error:
            raise click.ClickException(error.message) from error
        click.echo(summary, err=True)

    simulate()


if __name__ == "__main__":
    _command()
