"""The cohort of the demonstration: simulated samples and, where it can be had, a real one, on one reference.

    folder/
      bams/{sample}.bam                      unaligned reads
      reference/transcripts.fasta.gz         and transcripts.gtf.gz: real (36 human genes) or made up
      sample_list.txt  truth.tsv  cohort.json

Made once and found again: the same request on the same folder returns at once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from batch_pipeline.demo.real import SAMPLE, RealData, Unavailable, fetch_real
from batch_pipeline.demo.simulate import Library, simulate_cohort
from batch_pipeline.demo.transcriptome import generate_transcriptome, read_transcriptome
from batch_pipeline.demo.truth import Fusion, Score, read_truth, score_results, write_truth

#: Version of cohort.json and of what the simulator makes of a seed.
FORMAT: Final = 1
_LIBRARY: Final = Library()


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Samples with their truth."""

    folder: Path
    #: The real one, if there, is the last here and the first of the sample list.
    samples: tuple[str, ...]
    truth: tuple[Fusion, ...]
    #: What the reference is called: `pizzly-test` (real) or `simulated`.
    reference: str
    #: What the user should know, such as why there is no real sample.
    notes: tuple[str, ...] = ()

    @property
    def real(self) -> bool:
        """Whether the real sample is among them."""
        return SAMPLE in self.samples

    @property
    def bams(self) -> Path:
        """Folder of the BAMs."""
        return self.folder / "bams"

    @property
    def fasta(self) -> Path:
        """The reference's transcripts."""
        return self.folder / "reference" / "transcripts.fasta.gz"

    @property
    def gtf(self) -> Path:
        """The reference's annotation."""
        return self.folder / "reference" / "transcripts.gtf.gz"

    @property
    def sample_list(self) -> Path:
        """One sample a line."""
        return self.folder / "sample_list.txt"

    @property
    def params(self) -> Mapping[str, Mapping[str, Any]]:
        """Step -> parameters that fit these samples: their libraries are unstranded."""
        return {"kallisto": {"strandedness": "none"}}

    def bam(self, sample: str) -> Path:
        """A sample's BAM."""
        return self.bams / f"{sample}.bam"


def prepare(folder: Path, *, seed: int = 1, samples: int = 8, real: bool = True, cache: Path | None = None) -> Cohort:
    """Makes the cohort, or finds it as it was made. Without the real set, a reference is made up and a note says why.

    Parameters
    ----------
    samples: how many are simulated; the first two have no fusion.
    real: whether to fetch the real set; False keeps off the network.
    cache: where the real set's archive is kept, if not in the user's cache.
    """
    folder = folder.absolute()
    request = {"format": FORMAT, "seed": seed, "samples": samples, "real": real, "library": asdict(_LIBRARY)}
    existing = _existing(folder, request)
    if existing is not None and (existing.real or not real):
        return existing
    fetched = fetch_real(folder / "real", cache=cache) if real else Unavailable(reason="")
    # Still no real set: the files stay as they are, so that a pipeline sees nothing new.
    if existing is not None and isinstance(fetched, Unavailable):
        return existing
    return _made(folder, request, fetched, seed=seed, samples=samples)


def score(cohort: Cohort, results: Mapping[str, Path]) -> Score:
    """Judges pizzly's JSON files, by sample, against the cohort's truth."""
    return score_results(cohort.truth, cohort.samples, results)


def _made(
    folder: Path, request: Mapping[str, Any], fetched: RealData | Unavailable, *, seed: int, samples: int
) -> Cohort:
    stamp = folder / "cohort.json"
    stamp.unlink(missing_ok=True)
    for made_before in (folder / "bams", folder / "reference"):
        shutil.rmtree(made_before, ignore_errors=True)
        made_before.mkdir(parents=True)
    reference = "pizzly-test" if isinstance(fetched, RealData) else "simulated"
    cohort = Cohort(folder=folder, samples=(), truth=(), reference=reference)
    if isinstance(fetched, RealData):
        shutil.copyfile(fetched.fasta, cohort.fasta)
        shutil.copyfile(fetched.gtf, cohort.gtf)
    else:
        generate_transcriptome(cohort.fasta, cohort.gtf, seed=seed)
    transcripts = read_transcriptome(cohort.fasta, cohort.gtf)
    truth = simulate_cohort(transcripts, cohort.bams, seed=seed, samples=samples, library=_LIBRARY)
    names = [f"sim{number:02}" for number in range(1, samples + 1)]
    if isinstance(fetched, RealData):
        fetched.write_bam(cohort.bam(SAMPLE))
        truth += fetched.truth()
        names.append(SAMPLE)
    # pizzly takes longest on the real one: listed first, it is done while the others are at earlier steps.
    listed = sorted(names, key=lambda name: name != SAMPLE)
    cohort.sample_list.write_text("".join(f"{name}\n" for name in listed), encoding="utf-8")
    write_truth(folder / "truth.tsv", truth)
    made = {
        "request": request,
        "reference": reference,
        "notes": [fetched.reason] if isinstance(fetched, Unavailable) and fetched.reason else [],
        "sizes": {name: cohort.bam(name).stat().st_size for name in names},
    }
    stamp.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    return _read(folder, made)


def _existing(folder: Path, request: Mapping[str, Any]) -> Cohort | None:
    """The cohort in the folder, if it was made for this request and is whole."""
    try:
        made = json.loads((folder / "cohort.json").read_text(encoding="utf-8"))
        if made["request"] != request:
            return None
        cohort = _read(folder, made)
        sizes = {sample: cohort.bam(sample).stat().st_size for sample in cohort.samples}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = sizes == made["sizes"] and cohort.fasta.is_file() and cohort.gtf.is_file() and cohort.sample_list.is_file()
    return cohort if whole else None


def _read(folder: Path, made: Mapping[str, Any]) -> Cohort:
    return Cohort(
        folder=folder,
        samples=tuple(made["sizes"]),
        truth=tuple(read_truth(folder / "truth.tsv")),
        reference=made["reference"],
        notes=tuple(made["notes"]),
    )
