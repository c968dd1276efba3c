"""The fusions that a cohort holds, and how well a set of results agrees with them.

A fusion counts as found when its *ordered* pair of genes is listed for its sample, 5' partner first. Its breakpoint is
exact when one of the listed pairs of isoforms is cut where the truth says; positions are judged only where known.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """One fusion in one sample."""

    sample: str
    gene_a: str
    gene_a_id: str
    gene_b: str
    gene_b_id: str
    #: Empty, with positions 0, where the isoforms are not known.
    transcript_a: str = ""
    transcript_b: str = ""
    #: Bases of A before the junction.
    position_a: int = 0
    #: Bases of B that are left out before the junction.
    position_b: int = 0
    #: Pairs with the junction between their reads, and with a read over it.
    spanning: int = 0
    split: int = 0

    @property
    def name(self) -> str:
        """As people write it: `EML4-ALK`."""
        return f"{self.gene_a}-{self.gene_b}"

    @property
    def pair(self) -> tuple[str, str]:
        """Ids of the two genes, 5' partner first."""
        return self.gene_a_id, self.gene_b_id


@dataclass(frozen=True, kw_only=True)
class SampleScore:
    """How one sample's result agrees with the truth."""

    sample: str
    expected: int
    #: The key of `demo --json`.
    found: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    #: Listed and not true; a pair in the wrong order is one of these, and one of `missed`.
    extra: tuple[str, ...] = ()
    #: Of those found: breakpoints that can be judged, and that are right.
    judged: int = 0
    exact: int = 0
    #: Why there is no result to judge, or empty.
    problem: str = ""

    @property
    def perfect(self) -> bool:
        """Whether it is exactly the truth."""
        return not (self.missed or self.extra or self.problem) and self.exact == self.judged


@dataclass(frozen=True, kw_only=True)
class Score:
    """How a cohort's results agree with the truth."""

    samples: tuple[SampleScore, ...]

    @property
    def perfect(self) -> bool:
        """Whether every sample is exactly the truth."""
        return all(sample.perfect for sample in self.samples)

    @property
    def detected(self) -> int:
        """Fusions found."""
        return sum(len(sample.found) for sample in self.samples)

    @property
    def expected(self) -> int:
        """Fusions there are."""
        return sum(sample.expected for sample in self.samples)

    @property
    def sentence(self) -> str:
        """The result in one line."""
        extra = sum(len(sample.extra) for sample in self.samples)
        judged, exact = sum(s.judged for s in self.samples), sum(s.exact for s in self.samples)
        negatives = [sample for sample in self.samples if not sample.expected]
        empty = sum(sample.perfect for sample in negatives)
        return (
            f"{self.detected} of {self.expected} fusions found, {extra} not true, {exact} of {judged} known breakpoints"
            f" exact, {empty} of {len(negatives)} samples without fusions empty"
        )

    def table(self) -> list[tuple[str, ...]]:
        """Rows for people, header first."""
        rows: list[tuple[str, ...]] = [
            ("sample", "expected", "found", "missed", "not true", "exact breakpoints", "verdict")
        ]
        for sample in self.samples:
            exact = f"{sample.exact} of {sample.judged}" if sample.judged else "-"
            verdict = sample.problem or ("as it should be" if sample.perfect else "differs")
            lists = (", ".join(names) or "-" for names in (sample.found, sample.missed, sample.extra))
            rows.append((sample.sample, str(sample.expected), *lists, exact, verdict))
        return rows


def score_results(truth: Iterable[Fusion], samples: Sequence[str], results: Mapping[str, Path]) -> Score:
    """Judges pizzly's JSON files, by sample; a sample without one is told as a problem, not as one without fusions."""
    by_sample: dict[str, list[Fusion]] = {sample: [] for sample in samples}
    for fusion in truth:
        if fusion.sample in by_sample:
            by_sample[fusion.sample].append(fusion)
    return Score(samples=tuple(_score(name, fusions, results.get(name)) for name, fusions in by_sample.items()))


def _score(sample: str, fusions: Sequence[Fusion], result: Path | None) -> SampleScore:
    expected = len(fusions)
    try:
        listed = {_pair(gene): gene for gene in json.loads((result or Path()).read_text(encoding="utf-8"))["genes"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = "no result" if result is None or isinstance(error, OSError) else f"unreadable result ({error!r})"
        names = tuple(fusion.name for fusion in fusions)
        return SampleScore(sample=sample, expected=expected, missed=names, problem=problem)
    detected = [fusion for fusion in fusions if fusion.pair in listed]
    judged = [fusion for fusion in detected if fusion.transcript_a]
    true = {fusion.pair for fusion in fusions}
    return SampleScore(
        sample=sample,
        expected=expected,
        found=tuple(fusion.name for fusion in detected),
        missed=tuple(fusion.name for fusion in fusions if fusion.pair not in listed),
        extra=tuple(f"{g['geneA']['name']}-{g['geneB']['name']}" for pair, g in listed.items() if pair not in true),
        judged=len(judged),
        exact=sum(_is_exact(fusion, listed[fusion.pair]) for fusion in judged),
    )


def _pair(gene: dict[str, Any]) -> tuple[str, str]:
    return gene["geneA"]["id"], gene["geneB"]["id"]


def _is_exact(fusion: Fusion, gene: dict[str, Any]) -> bool:
    true = (fusion.transcript_a, fusion.position_a, fusion.transcript_b, fusion.position_b)
    return any(
        (
            one["transcriptA"]["id"],
            one["transcriptA"]["endPos"],
            one["transcriptB"]["id"],
            one["transcriptB"]["startPos"],
        )
        == true
        for one in gene["transcripts"]
    )


def write_truth(path: Path, truth: Iterable[Fusion]) -> None:
    """Writes a truth table."""
    rows = ["\t".join(field.name for field in fields(Fusion))]
    rows += ["\t".join(map(str, astuple(fusion))) for fusion in truth]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def read_truth(path: Path) -> list[Fusion]:
    """Reads a truth table that `write_truth` wrote."""
    header, *rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
    numbers = {field.name for field in fields(Fusion) if field.type == "int"}
    truth = []
    for row in rows:
        values: dict[str, Any] = dict(zip(header, row, strict=True))
        values.update({name: int(values[name]) for name in numbers})
        truth.append(Fusion(**values))
    return truth
