"""The real job, nine samples through picard, kallisto and pizzly, beside a shell loop over the same command lines.

Two loops: one runs the three tools and nothing else; one also does by hand what the steps check (whole BAM, read pairs
counted before and after, gzip intact, the reference's cache as it was built, results digested), since that is work that
somebody must do. Both run two samples at a time with `xargs -P2`; ours has two vCPUs. The reference is built before.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batch_pipeline.wire import layout
from benchmarks import table
from benchmarks.engines import SLOTS, passed_environment
from benchmarks.measure import BenchmarkFailed, Cost, run
from benchmarks.peers import cache_folder
from steps.pizzly_json import settle_directions

if TYPE_CHECKING:
    from batch_pipeline.demo.cohort import Cohort

_ROOT = Path(__file__).resolve().parent.parent
GOAL = 1.05
#: The steps of a sample; the loop makes no tables of the cohort.
STEPS = ("picard", "kallisto", "pizzly")
#: Debian's package of each tool that the steps call.
_PACKAGES = {"java": "picard-tools", "kallisto": "kallisto", "pizzly": "pizzly", "samtools": "samtools"}

#: The steps' own command lines (steps/*.py), for one sample.
_LOOP = """\
set -e
s=$1
mkdir $s
cd $s
java -Xmx1536m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -jar /usr/share/java/picard.jar SamToFastq \\
  -I $BAMS/$s.bam -F ${s}_1.fastq.gz -F2 ${s}_2.fastq.gz -VALIDATION_STRINGENCY STRICT -INCLUDE_NON_PF_READS true \\
  -TMP_DIR . >log 2>&1
kallisto quant -i $REFERENCE/kallisto.idx -o . --fusion -t 1 -b 30 ${s}_1.fastq.gz ${s}_2.fastq.gz >>log 2>&1
cp $REFERENCE/pizzly.cache cache
HOME=. pizzly --version-check 0 -k 31 --gtf $REFERENCE/annotation.gtf.gz --cache cache --align-score 2 \\
  --insert-size 400 --fasta $REFERENCE/transcripts.fa.gz --output $s fusion.txt >>log 2>&1
rm cache
"""
_BEFORE = """\
samtools quickcheck -u $BAMS/$s.bam
samtools flagstat $BAMS/$s.bam >flagstat.txt
pairs=$(sed -n 's/^\\([0-9]*\\) + [0-9]* read1$/\\1/p' flagstat.txt)
"""
_AFTER_PICARD = """\
for f in ${s}_1.fastq.gz ${s}_2.fastq.gz; do [ $(zcat $f | wc -l) -eq $((4 * pairs)) ]; done
"""
_AFTER_KALLISTO = """\
grep -q "\\"n_processed\\": $pairs," run_info.json
head -n 1 fusion.txt | grep -q '^TYPE'
(cd $REFERENCE && sha256sum pizzly.cache) >/dev/null
"""
_AFTER_PIZZLY = """\
[ $(grep -c '"geneA"' $s.json) -le $(grep -c '"geneA"' $s.unfiltered.json) ]
pizzly --version-check 0 --version >>log 2>&1
sha256sum *.gz *.tsv *.txt *.json *.fasta >sums
"""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round: the same nine samples three times."""

    ours: Cost
    #: CPU time of our jobs by their receipts: tools and checks, without server, driver and staging.
    steps_cpu_seconds: float
    loop: Cost
    checked_loop: Cost
    load: str


def main(*, rounds: int, real: bool, results_folder: Path) -> None:
    """Measures, prints and keeps; where the tools are missing it says so. See `prepared_cohort` for `real`."""
    if missing := missing_tools():
        table.say(f"fusion is left out: {missing}")
        return
    cohort, reference = prepared_cohort(cache_folder(), real=real)
    measured = measure_rounds(cohort, reference, rounds)
    _report(cohort, measured)
    values = {"machine": table.machine(), "samples": cohort.samples, "rounds": measured}
    table.keep("fusion", values, results_folder)


def missing_tools(*tools: str) -> str:
    """A sentence that names the tools (default: all) which are not on the PATH, with their packages; empty: none."""
    missing = [name for name in tools or _PACKAGES if shutil.which(name) is None]
    packages = " ".join(_PACKAGES[name] for name in missing)
    return f"{', '.join(missing)} is not here (apt: {packages})." if missing else ""


def measure_rounds(cohort: Cohort, reference: Path, rounds: int) -> list[Round]:
    """Measures the cohort in each of the interleaved rounds, every second one backwards, and prints their times.

    Raises BenchmarkFailed when a command fails, or when the loops find other fusions than the pipeline.
    """
    measured = []
    for number in range(rounds):
        measured.append(_one(cohort, reference, backwards=number % 2 == 1))
        seconds = {name: f"{cost.seconds:.1f} s" for name, cost in _costs(measured[-1]).items()}
        table.say(f"  round {number + 1}  {seconds}  load {measured[-1].load}")
    return measured


def show_rounds(title: str, rounds: Sequence[Round], notes: Sequence[str]) -> None:
    """Prints the medians of the rounds, each as a multiple of both loops, with notes below."""
    rows = []
    for name in _costs(rounds[0]):
        costs = [_costs(one)[name] for one in rounds]
        rows.append(
            (
                name,
                f"{table.median(cost.seconds for cost in costs):.2f}",
                f"{table.median(cost.cpu_seconds for cost in costs):.2f}",
                f"{max(cost.together_mib for cost in costs):.0f}",
                *(_ratio(rounds, name, base) for base in ("loop", "loop with checks")),
            )
        )
    table.show(title, ("what", "s", "CPU s", "MiB all", "x loop (CPU)", "x loop with checks (CPU)"), rows, notes=notes)


def _report(cohort: Cohort, found: Sequence[Round]) -> None:
    plain, checked = (
        table.median(one.ours.seconds / _costs(one)[base].seconds for one in found)
        for base in ("loop", "loop with checks")
    )
    notes = [
        table.verdict(plain, GOAL, f"ours <= {GOAL} x the loop"),
        table.verdict(checked, GOAL, f"ours <= {GOAL} x the loop with checks"),
        f"load now {table.load()}",
    ]
    show_rounds(f"fusion: {len(cohort.samples)} samples x 3 tools, {SLOTS} at a time", found, notes)


def _costs(one: Round) -> dict[str, Cost]:
    return {"batch_pipeline": one.ours, "loop": one.loop, "loop with checks": one.checked_loop}


def _ratio(found: Sequence[Round], name: str, base: str) -> str:
    wall = table.median(_costs(one)[name].seconds / _costs(one)[base].seconds for one in found)
    cpu = table.median(_costs(one)[name].cpu_seconds / _costs(one)[base].cpu_seconds for one in found)
    return f"{wall:.3f} ({cpu:.3f})"


def prepared_cohort(cache: Path, *, real: bool) -> tuple[Cohort, Path]:
    """The demonstration's cohort and the folder of its reference; made below `cache` at first use and kept.

    Without `real` the reference is made up and nothing is fetched.
    """
    from batch_pipeline.demo.cohort import prepare

    folder = cache / ("fusion" if real else "fusion_made_up")
    folder.mkdir(parents=True, exist_ok=True)
    cohort = prepare(folder / "cohort", real=real)
    for note in cohort.notes:
        table.say(f"  {note}")
    return cohort, prepared_reference(folder, cohort)


def prepared_reference(folder: Path, cohort: Cohort) -> Path:
    """The folder of the cohort's reference, built in the folder at first use and kept."""
    reference = folder / "store" / "references" / cohort.reference
    if not (reference / "reference.json").is_file():
        table.say("  building the reference …")
        sources = ("--fasta", str(cohort.fasta), "--gtf", str(cohort.gtf))
        _run_ours("reference", cohort.reference, *sources, folder=folder)
    return reference


def _one(cohort: Cohort, reference: Path, *, backwards: bool) -> Round:
    load = table.load()
    with tempfile.TemporaryDirectory(prefix="fusion-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        order = ["ours", "loop", "checked"]
        found = {what: _run(what, folder / what, cohort, reference) for what in (order[::-1] if backwards else order)}
        _require_same(cohort, folder)
        steps_cpu_seconds = sum(_cpu_seconds(folder / "ours" / "store", cohort))
    return Round(
        ours=found["ours"],
        steps_cpu_seconds=steps_cpu_seconds,
        loop=found["loop"],
        checked_loop=found["checked"],
        load=load,
    )


def _run(what: str, folder: Path, cohort: Cohort, reference: Path) -> Cost:
    folder.mkdir()
    if what != "ours":
        return _run_loop(folder, cohort, reference, checked=what == "checked")
    return run_pipeline(folder, cohort, reference)


def run_pipeline(folder: Path, cohort: Cohort, reference: Path) -> Cost:
    """Runs the three steps of each sample, into `folder`/store, on a copy of the reference's folder."""
    store = folder / "store"
    shutil.copytree(reference, store / "references" / reference.name)
    samples = ("--sample-list-file", str(cohort.sample_list), "--sources", str(cohort.bams))
    steps = [word for step in STEPS for word in ("--only-step", step)]
    return _run_ours("run", *samples, "--reference", reference.name, "--strandedness", "none", *steps, folder=folder)


def _run_ours(verb: str, *words: str, folder: Path) -> Cost:
    """Runs a command on `folder`/store with an embedded server of its own, which is ended afterwards."""
    from batch_pipeline.localbatch.client import stop

    state = folder / "state"
    environment = {
        **passed_environment(),
        "PYTHONPATH": str(_ROOT),
        "BATCH_PIPELINE__EMBEDDED__STATE": str(state),
        "BATCH_PIPELINE__EMBEDDED__VCPUS": str(SLOTS),
    }
    command = [sys.executable, str(_ROOT / "main.py"), verb, *words, "--store", str(folder / "store")]
    try:
        return run(command, folder=folder, environment=environment, log=folder / "log")
    finally:
        stop(state)


def _run_loop(folder: Path, cohort: Cohort, reference: Path, *, checked: bool) -> Cost:
    (folder / "one.sh").write_text(_script(checked=checked))
    samples = " ".join(cohort.samples)
    loop = f"printf '%s\\n' {samples} | xargs -P{SLOTS} -n1 sh {folder}/one.sh"
    environment: Mapping[str, str] = {
        **passed_environment(),
        "BAMS": str(cohort.bams),
        "REFERENCE": str(reference),
    }
    return run(["sh", "-c", loop], folder=folder, environment=environment, log=folder / "log")


def _script(*, checked: bool) -> str:
    if not checked:
        return _LOOP
    head, kallisto, rest = _LOOP.partition("kallisto quant")
    line, cache, pizzly = rest.partition("cp $REFERENCE")
    start, java, more = head.partition("java ")
    return "".join(
        (start, _BEFORE, java, more, _AFTER_PICARD, kallisto, line, _AFTER_KALLISTO, cache, pizzly, _AFTER_PIZZLY)
    )


def _cpu_seconds(store: Path, cohort: Cohort) -> Iterator[float]:
    """CPU time of each job, by its receipt."""
    for step in STEPS:
        for sample in cohort.samples:
            for receipt in (store / layout.receipts(step, sample)).iterdir():
                yield json.loads(receipt.read_text())["usage"]["cpu_seconds"]


def _require_same(cohort: Cohort, folder: Path) -> None:
    """Ours and the loops must have found the same fusions, or the times compare different work."""
    for sample in cohort.samples:
        mine = (folder / "ours" / "store" / "results" / "pizzly" / sample / f"{sample}.json").read_text()
        for loop in ("loop", "checked"):
            found = (folder / loop / sample / f"{sample}.json").read_text()
            if "".join(settle_directions(found.splitlines(keepends=True))) != mine:
                raise BenchmarkFailed(f"The {loop} and ours found other fusions in {sample}.")
