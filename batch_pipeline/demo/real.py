"""Real reads with a known answer: pizzly's own test set, 744 read pairs of SRR1659964 and 36 genes of Ensembl 85.

The reads hold nine fusions, the spike-ins of Tembe et al. 2014 (BMC Genomics 15:824). The set is in Debian's *source*
package of pizzly, so it comes from the archive that this machine's apt already uses, checked by SHA-256, and is kept in
the user's cache. The subset was chosen to hold these reads: it shows that the software works, not how specific it is.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batch_pipeline.demo.bam import import_fastqs
from batch_pipeline.demo.transcriptome import gene_ids
from batch_pipeline.demo.truth import Fusion

SAMPLE: Final = "SRR1659964"
ARCHIVE: Final = "pizzly_0.37.3+ds.orig.tar.xz"
ARCHIVE_SHA256: Final = "8dd0dfb08a9341d4eeb525679779d3afb641b198c88df646ffc7e72930039678"
_FILES: Final = ("reads_1.fastq.gz", "reads_2.fastq.gz", "transcripts.fasta.gz", "transcripts.gtf.gz")
_KEYRINGS: Final = ("debian-archive-keyring.gpg", "debian-archive-keyring.pgp")
#: Components that hold free software, in Debian and in Ubuntu.
_COMPONENTS: Final = ("main", "universe")
#: For the whole of one apt call; the list of sources is 10 MB.
_SECONDS: Final = 120

#: What the set gives with the pipeline's defaults, unstranded: the sample's numbers, and pairs and splits a fusion.
GOLDEN_METRICS: Final[Mapping[str, float]] = {
    "processed_pairs": 744,
    "pseudoaligned_pairs": 368,
    "mean_fragment_length": 140.96,
    "fusion_rows": 367,
    "fusion_rows_pair": 193,
    "fusion_rows_split": 174,
    "kept": 308,
}
GOLDEN_FUSIONS: Final[Mapping[tuple[str, str], tuple[int, int]]] = {
    ("EML4", "ALK"): (4, 0),
    ("CD74", "ROS1"): (1, 21),
    ("EWSR1", "ATF1"): (3, 38),
    ("HOOK3", "RET"): (3, 26),
    ("AKAP9", "BRAF"): (19, 24),
    ("ETV6", "NTRK3"): (15, 33),
    ("BRD4", "NUTM1"): (11, 39),
    ("EWSR1", "FLI1"): (11, 32),
    ("TMPRSS2", "ETV1"): (9, 19),
}


@dataclass(frozen=True, kw_only=True)
class RealData:
    """The set, unpacked."""

    reads: tuple[Path, Path]
    fasta: Path
    gtf: Path

    def truth(self) -> list[Fusion]:
        """The nine known fusions; their isoforms and breakpoints are not known."""
        ids = gene_ids(self.gtf)
        return [
            Fusion(sample=SAMPLE, gene_a=a, gene_a_id=ids[a], gene_b=b, gene_b_id=ids[b], spanning=pairs, split=split)
            for (a, b), (pairs, split) in GOLDEN_FUSIONS.items()
        ]

    def write_bam(self, path: Path) -> None:
        """Makes the sample's BAM. The mates' names end in .1 and .2 and are made equal."""
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            plain = tuple(Path(folder) / f"{mate}.fastq" for mate in (1, 2))
            for mate, source, target in zip((1, 2), self.reads, plain, strict=True):
                lines = gzip.decompress(source.read_bytes()).decode("ascii").splitlines()
                lines[::4] = [line.split()[0].removesuffix(f".{mate}") for line in lines[::4]]
                target.write_text("\n".join(lines) + "\n", encoding="ascii")
            import_fastqs(plain[0], plain[1], path, sample=SAMPLE, library=SAMPLE)


@dataclass(frozen=True, kw_only=True)
class Unavailable:
    """Why the set cannot be had here; everything else works without it."""

    reason: str


def cache_folder() -> Path:
    """Where the archive is kept between demonstrations."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batch_pipeline"


def fetch_real(folder: Path, *, cache: Path | None = None) -> RealData | Unavailable:
    """Unpacks the set into the folder, from the cache or else through apt. Never raises for want of a network."""
    archive = (cache or cache_folder()) / ARCHIVE
    if not archive.is_file() or _sha256(archive) != ARCHIVE_SHA256:
        reason = _download(archive)
        if reason:
            return Unavailable(reason=f"{reason} The real sample {SAMPLE} is left out.")
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        for name in _FILES:
            member = tar.extractfile(f"pizzly-0.37.3/test/{name}")
            assert member is not None, "the checksum vouches for it"
            (folder / name).write_bytes(member.read())
    first, second, fasta, gtf = (folder / name for name in _FILES)
    return RealData(reads=(first, second), fasta=fasta, gtf=gtf)


def _download(archive: Path) -> str:
    """Gets the archive into the cache; returns why that failed, or nothing."""
    try:
        source = _source_line()
        if not source:
            return "apt on this machine has no Debian or Ubuntu archive, from whose source package the reads come."
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            _fetch_source(Path(folder), source)
            tarball = next(Path(folder).glob("pizzly_*.orig.tar.*"), None)
            if tarball is None or _sha256(tarball) != ARCHIVE_SHA256:
                return f"apt gave another archive than {ARCHIVE}, whose checksum is known."
            part = archive.with_name(f".{archive.name}.{os.getpid()}.part")
            part.write_bytes(tarball.read_bytes())
            part.replace(archive)
    except FileNotFoundError:
        return "This machine has no apt-get, through which the reads come."
    except (OSError, subprocess.SubprocessError) as error:
        return f"The reads could not be had through apt ({_cause(error)})."
    return ""


def _source_line() -> str:
    """A deb-src line for the release that this machine runs, made of its own binary sources; empty if it has none."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(RELEASE)|$(COMPONENT)|$(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=True,
    ).stdout
    system = _os_release()
    for line in sorted(set(listed.splitlines())):
        release, component, uri = line.split("|", 2)
        if release == system.get("VERSION_CODENAME") and component in _COMPONENTS:
            return f"deb-src {_signed_by(system)}{uri} {release} {component}\n"
    return ""


def _signed_by(system: Mapping[str, str]) -> str:
    if system.get("ID") != "debian":
        return ""
    keyrings = (Path("/usr/share/keyrings") / name for name in _KEYRINGS)
    return next((f"[signed-by={path}] " for path in keyrings if path.exists()), "")


def _os_release() -> dict[str, str]:
    path = Path("/etc/os-release")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}


def _fetch_source(folder: Path, source: str) -> None:
    """Downloads the upstream tar alone, with lists and caches in the folder: the machine's own stay as they are."""
    (folder / "sources.list").write_text(source, encoding="utf-8")
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    settings = {
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        # The folder is the user's; apt's own user could not write there.
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "1",
        "Acquire::http::Timeout": "20",
        "Acquire::https::Timeout": "20",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    for command in (["update"], ["source", "--download-only", "--tar-only", "pizzly"]):
        subprocess.run(
            ["apt-get", "-qq", *options, *command],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )


def _cause(error: Exception) -> str:
    stderr = getattr(error, "stderr", None)
    lines = [line for line in stderr.splitlines() if line.startswith("E:")] if isinstance(stderr, str) else []
    return lines[-1].removeprefix("E: ") if lines else type(error).__name__


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
