"""The simulator's promises: all follows from the seed, and every fusion has reads enough to be found."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from pathlib import Path

import pytest

from batch_pipeline.demo.simulate import (
    MIN_CROSSING,
    Library,
    design_cohort,
    simulate_cohort,
    simulate_sample,
)
from batch_pipeline.demo.transcriptome import (
    Transcript,
    _generate_gene,
    gene_ids,
    generate_transcriptome,
    read_transcriptome,
    reverse_complement,
)
from batch_pipeline.wire.errors import InvalidConfig

SMALL = Library(pairs=300, fusion_pairs=60)


@pytest.fixture(scope="module")
def transcripts(tmp_path_factory: pytest.TempPathFactory) -> list[Transcript]:
    return made_up(tmp_path_factory.mktemp("transcriptome"), seed=3)


def made_up(folder: Path, seed: int, genes: int = 40) -> list[Transcript]:
    generate_transcriptome(folder / "t.fa.gz", folder / "g.gtf.gz", seed=seed, genes=genes)
    return read_transcriptome(folder / "t.fa.gz", folder / "g.gtf.gz")


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_a_made_up_transcriptome_reads_back_with_synthetic_names(tmp_path: Path) -> None:
    transcripts = made_up(tmp_path, seed=1)
    assert len(transcripts) == 40
    assert set(gene_ids(tmp_path / "g.gtf.gz")) == {f"SIM{number}" for number in range(1, 41)}
    assert all(sum(t.exons) == len(t.sequence) >= 600 for t in transcripts)


def test_the_same_seed_makes_the_same_transcriptome_and_another_another(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        (tmp_path / name).mkdir()
        made_up(tmp_path / name, seed)
    one, two, three = (checksums(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert not set(one.values()) & set(three.values())


def test_the_longest_usable_transcript_stands_for_its_gene(tmp_path: Path) -> None:
    def line(kind: str, first: int, last: int, gene: str, name: str, biotype: str = "protein_coding") -> str:
        attributes = f'gene_id "{gene}"; gene_biotype "protein_coding"; transcript_id "{name}";'
        return f'1\tx\t{kind}\t{first}\t{last}\t.\t+\t.\t{attributes} transcript_biotype "{biotype}";\n'

    rows = line("gene", 1, 5000, "G1", "")
    for name, first, second, biotype in (
        ("short", 300, 400, "protein_coding"),
        ("longest", 500, 400, "protein_coding"),
        ("tied", 500, 400, "protein_coding"),
        ("noncoding", 900, 900, "lincRNA"),
    ):
        rows += line("transcript", 1, 5000, "G1", name, biotype)
        rows += line("exon", 1, first, "G1", name) + line("exon", 1001, 1000 + second, "G1", name)
    (tmp_path / "g.gtf").write_text(rows)
    lengths = {"short": 700, "longest": 900, "tied": 900, "noncoding": 1800}
    (tmp_path / "t.fa").write_text("".join(f">{name} x\n{'A' * length}\n" for name, length in lengths.items()))
    [only] = read_transcriptome(tmp_path / "t.fa", tmp_path / "g.gtf")
    assert (only.id, only.exons, only.inner_ends) == ("longest", (500, 400), [500])


@pytest.mark.parametrize("number", [1, 10_000, 30_000])
def test_a_large_transcriptome_goes_on_on_other_chromosomes_at_positions_that_pizzly_can_read(number: int) -> None:
    annotation = list[str]()
    for gene in (number, number + 10_000):
        _generate_gene(random.Random(gene), gene, [], annotation)
    genes = [columns for line in annotation if (columns := line.split("\t"))[2] == "gene"]
    assert len({columns[0] for columns in genes}) == 2
    assert max(int(columns[4]) for columns in genes) < 2**31


def test_the_other_strand() -> None:
    assert reverse_complement("AACGTN") == "NACGTT"


def test_the_first_two_samples_have_no_fusion_and_one_fusion_recurs(transcripts: list[Transcript]) -> None:
    cohort = design_cohort(transcripts, seed=1, samples=8)
    assert [len(sample.events) for sample in cohort[:2]] == [0, 0]
    assert all(1 <= len(sample.events) <= 3 for sample in cohort[2:])
    pairs = Counter((event.a.gene_id, event.b.gene_id) for sample in cohort for event in sample.events)
    assert sorted(pairs.values())[-2:] == [1, 3]


@pytest.mark.parametrize("seed", range(6))
def test_no_gene_is_in_two_fusions_of_a_sample_and_all_cuts_are_inner_exon_borders(
    transcripts: list[Transcript], seed: int
) -> None:
    for sample in design_cohort(transcripts, seed=seed, samples=12):
        genes = [gene for event in sample.events for gene in (event.a.gene_id, event.b.gene_id)]
        assert len(genes) == len(set(genes))
        for event in sample.events:
            assert event.position_a in event.a.inner_ends
            assert event.position_b in event.b.inner_ends
            assert event.position_a >= 300
            assert len(event.b.sequence) - event.position_b >= 300
            assert event.sequence.startswith(event.a.sequence[:300])


def test_neighbours_are_not_fused(transcripts: list[Transcript]) -> None:
    for sample in design_cohort(transcripts, seed=2, samples=12):
        for event in sample.events:
            if event.a.chromosome == event.b.chromosome:
                assert max(event.a.gene_start, event.b.gene_start) - min(event.a.gene_end, event.b.gene_end) >= 20_000


@pytest.mark.parametrize("count", [1, 3])
def test_too_few_genes_are_told_with_the_remedy(transcripts: list[Transcript], count: int) -> None:
    with pytest.raises(InvalidConfig, match=rf"has {count} genes to fuse.*simulate fewer samples"):
        design_cohort(transcripts[:count], seed=1, samples=20)


def test_every_fusion_has_its_crossing_pairs_even_when_few_are_drawn(transcripts: list[Transcript]) -> None:
    sample = design_cohort(transcripts, seed=1, samples=4)[3]
    reads = simulate_sample(sample, transcripts, seed=1, library=Library(pairs=10, fusion_pairs=MIN_CROSSING))
    assert reads.truth
    for fusion in reads.truth:
        assert fusion.spanning + fusion.split == MIN_CROSSING


def test_reads_come_from_both_strands_of_the_transcripts(transcripts: list[Transcript]) -> None:
    [sample, *_] = design_cohort(transcripts, seed=1, samples=1)
    reads = simulate_sample(sample, transcripts, seed=1, library=Library(pairs=200, error_rate=0.0))
    text = "|".join(t.sequence for t in transcripts)
    forward = [first in text for first, _, _, _ in reads.pairs]
    assert 60 < sum(forward) < 140
    assert all(
        (reverse_complement(second) in text) == way for (_, _, second, _), way in zip(reads.pairs, forward, strict=True)
    )
    assert {len(read) for pair in reads.pairs for read in pair} == {100}


def test_wrong_bases_are_as_many_as_asked_for_and_marked(transcripts: list[Transcript]) -> None:
    [sample, *_] = design_cohort(transcripts, seed=1, samples=1)
    clean, noisy = (
        simulate_sample(sample, transcripts, seed=1, library=Library(pairs=2000, error_rate=rate))
        for rate in (0.0, 0.01)
    )
    assert not any("#" in quality for pair in clean.pairs for quality in pair[1::2])
    marked = sum(quality.count("#") for pair in noisy.pairs for quality in pair[1::2])
    assert 0.009 < marked / (2000 * 2 * 100) < 0.011


def test_a_marked_base_is_wrong_and_the_others_are_right(transcripts: list[Transcript]) -> None:
    [sample, *_] = design_cohort(transcripts, seed=1, samples=1)
    reads = simulate_sample(sample, transcripts[:1], seed=1, library=Library(pairs=30, error_rate=0.02))
    strands = transcripts[0].sequence, reverse_complement(transcripts[0].sequence)
    for bases, quality in ((pair[at], pair[at + 1]) for pair in reads.pairs for at in (0, 2)):
        wrong = {at for at, mark in enumerate(quality) if mark == "#"}
        places = (s[start : start + 100] for s in strands for start in range(len(s) - 99))
        assert any({at for at in range(100) if bases[at] != place[at]} == wrong for place in places)


def test_another_seed_or_sample_makes_other_reads(transcripts: list[Transcript]) -> None:
    one, two = design_cohort(transcripts, seed=1, samples=2)
    reads = simulate_sample(one, transcripts, seed=1, library=SMALL)
    assert reads == simulate_sample(one, transcripts, seed=1, library=SMALL)
    assert reads.pairs != simulate_sample(one, transcripts, seed=2, library=SMALL).pairs
    assert reads.pairs != simulate_sample(two, transcripts, seed=1, library=SMALL).pairs


@pytest.mark.tools
def test_two_cohorts_of_one_seed_are_the_same_to_the_byte(transcripts: list[Transcript], tmp_path: Path) -> None:
    truths = [simulate_cohort(transcripts, tmp_path / name, seed=4, samples=4, library=SMALL) for name in ("a", "b")]
    assert truths[0] == truths[1]
    assert checksums(tmp_path / "a") == checksums(tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [f"sim0{n}.bam" for n in range(1, 5)]
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes()[:2] == b"\x1f\x8b"
