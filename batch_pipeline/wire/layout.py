"""Composes every key in the store; no other module puts two parts of a key together.

    results/{step}/{sample}/…                         what the user came for: stable paths
    cohort/{step}/…                                   what a gather made
    references/{name}/…                               what every sample shares, and SHA256SUMS of what was put there
    receipts/{step}/{sample}/{fingerprint}.json       the only proof that a cell is done
    receipts/{step}/{sample}/{fingerprint}.{port}.removed.json   the port's temporary files went (`records.removals`)
    removing/{id}.json                                removals that may not be through (`run.temporary`)
    retired/{run_id}.json                             receipts that count for nothing since that run (`wire.retirement`)
    retired/{run_id}/{step}/{sample}.json             one that a job of that run found untrue
    pipelines/{step}/{pipeline}.json                  there if that pipeline makes the step's cells (`run.owners`)
    logs/{run_id}/{step}/{sample}/{attempt}.log       and {attempt}.failure.json beside it when the attempt failed
    code/{sha256}.zip                                 bundles: deterministic, content-addressed
    runs/{run_id}/run.json  plan.json  samples.tsv    the run record, written before anything is sent
    runs/{run_id}/submissions/{job}/…                 manifest.json, rows.txt, samples.txt, intent.json, sent.json
    runs/{run_id}/definitions.json                    the job definitions, each with the revision that jobs name
    runs/{run_id}/widths.json                         how many cells of its steps run side by side (`run.widths`)
    runs/{run_id}/failed.json  end.json               what failed and how it ended, when all of its jobs have
    runs/{run_id}/cells                               how each cell ended, in columns (`records.cell_table`)
    runs/{run_id}/cancelled/{order}.json              orders to cancel cells of it
    runs/{run_id}/config.json  diff.patch             settings as merged; what was changed since the commit
    runs/{run_id}/workflow.py                         the file that wires the steps
    runs/{run_id}/events/{id}.json                    what happened to it (`records.history`)
    runs/{run_id}/driver/{piece}.log                  what its drivers decided (`records.driver_log`)
    runs/{run_id}/driver.json  config.toml            what a driver job is ordered to run, and its configuration
    release/{date}/{run_id}/…                         results as released, never changed, with SHA256SUMS
    subsets/{id}.json                                 which samples were copied from where to where, on both sides
    live/{run_id}.json                                there while a run may have live jobs
    driving/{run_id}.json                             there while a driver may run as a job (`run.driver_jobs`)
    driver/{number}.json                              who may submit into this prefix (`run.lock`)
    pool/logs/{task}/{fence}.log                      long logs of a pool's tasks, one a claim (`pool.pilots.life`)
    pool/pilots/{name}.json                           pilots that were launched as jobs of a backend
    pool/pilot.sh                                     what these jobs fetch and run

In the place of the sample stands `{sample}@{part}` where a step has parts, the group where it has groups. All keys are
relative to the store's prefix. Sample names need no escaping: `pipeline.samples` admits only letters,
digits and `. _ + = @ -`, so no name can leave its folder.

(A little longer than most modules: a function a key.)
"""

from __future__ import annotations

from typing import Final

#: Stands in the sample's place in a gather's keys; no sample can be called so, as names start with a letter or digit.
COHORT: Final = "_cohort"

#: Beside the files of a reference that no step built: their checksums, as `sha256sum` writes them.
CHECKSUMS: Final = "SHA256SUMS"

RESULTS: Final = "results/"
GATHERED: Final = "cohort/"
RECEIPTS: Final = "receipts/"
RETIRED: Final = "retired/"
REMOVING: Final = "removing/"
_REMOVED: Final = ".removed.json"
OWNERS: Final = "pipelines/"
REFERENCES: Final = "references/"
RUNS: Final = "runs/"
LIVE: Final = "live/"
DRIVER: Final = "driver/"
DRIVING: Final = "driving/"
RELEASE: Final = "release/"


def result(step: str, sample: str, name: str) -> str:
    """Key of one output file; of a gather's when the sample is `COHORT`."""
    return f"{GATHERED}{step}/{name}" if sample == COHORT else f"{RESULTS}{step}/{sample}/{name}"


def step_results(step: str) -> str:
    """Prefix of the output files of all samples of a step."""
    return f"{RESULTS}{step}/"


def cell_of_result(key: str) -> tuple[str, str] | None:
    """Step and sample (`COHORT` of a gather) that an output's key belongs to; None for any other key."""
    head, *parts = key.split("/")
    if head == "results" and len(parts) >= 3:
        return parts[0], parts[1]
    return (parts[0], COHORT) if head == "cohort" and len(parts) >= 2 else None


def reference(name: str, file: str) -> str:
    """Key of one file of a reference."""
    return f"{REFERENCES}{name}/{file}"


def step_receipts(step: str) -> str:
    """Prefix of the receipts of all cells of a step."""
    return f"{RECEIPTS}{step}/"


def receipts(step: str, sample: str) -> str:
    """Prefix of a cell's receipts."""
    return f"{RECEIPTS}{step}/{sample}/"


def receipt(step: str, sample: str, fingerprint: str) -> str:
    """Key of a cell's receipt."""
    return f"{RECEIPTS}{step}/{sample}/{fingerprint}.json"


def retired(run_id: str) -> str:
    """Key of the list of receipts that count for nothing since a run set out to make their cells again."""
    return f"{RETIRED}{run_id}.json"


def untrue(run_id: str, step: str, sample: str) -> str:
    """Key of the list with the one receipt that a job of a run, or whoever verified, found untrue."""
    return f"{RETIRED}{run_id}/{step}/{sample}.json"


def owner(step: str, pipeline: str) -> str:
    """Key of what says that a pipeline makes the cells of a step."""
    return f"{OWNERS}{step}/{pipeline}.json"


def owner_of(key: str) -> tuple[str, str] | None:
    """Step and pipeline of an owner's key; None for any other key."""
    step, _, name = key.removeprefix(OWNERS).partition("/")
    return (step, name.removesuffix(".json")) if name.endswith(".json") and "/" not in name else None


def cell_of_receipt(key: str) -> tuple[str, str, str] | None:
    """Step, sample and fingerprint of a receipt's key; None for any other key."""
    parts = key.split("/")
    if len(parts) != 4 or not parts[3].endswith(".json") or parts[3].endswith(_REMOVED):
        return None
    return parts[1], parts[2], parts[3][:-5]


def removal(step: str, sample: str, fingerprint: str, port: str) -> str:
    """Key of the record that the temporary files of a port were removed after use; beside the cell's receipt."""
    return f"{RECEIPTS}{step}/{sample}/{fingerprint}.{port}{_REMOVED}"


def port_of_removal(key: str) -> tuple[str, str, str, str] | None:
    """Step, sample, fingerprint and port of a removal record's key; None for any other key."""
    if not key.endswith(_REMOVED):
        return None
    parts = key.removesuffix(_REMOVED).split("/")
    fingerprint, dot, port = parts[-1].partition(".")
    return (parts[1], parts[2], fingerprint, port) if len(parts) == 4 and dot else None


def removing(removal_id: str) -> str:
    """Key of a list of removals that may not be through."""
    return f"{REMOVING}{removal_id}.json"


def logs(run_id: str) -> str:
    """Prefix of a run's logs."""
    return f"logs/{run_id}/"


def step_logs(run_id: str, step: str) -> str:
    """Prefix of the logs of all cells of a step in a run."""
    return f"logs/{run_id}/{step}/"


def cell_logs(run_id: str, step: str, sample: str) -> str:
    """Prefix of a cell's logs in a run."""
    return f"logs/{run_id}/{step}/{sample}/"


def log(run_id: str, step: str, sample: str, attempt: int) -> str:
    """Key of an attempt's log."""
    return f"{cell_logs(run_id, step, sample)}{attempt}.log"


def failure(run_id: str, step: str, sample: str, attempt: int) -> str:
    """Key of what is known about a failed attempt; never a receipt's, so that a listing of receipts lists successes."""
    return f"{cell_logs(run_id, step, sample)}{attempt}.failure.json"


def attempt_of_failure(key: str) -> int | None:
    """The attempt whose failure is recorded at a key; None for any other key."""
    number = key.rpartition("/")[2].removesuffix(".failure.json")
    return int(number) if number.isdecimal() and not key.endswith(f"/{number}") else None


def bundle(sha256: str) -> str:
    """Key of a bundle."""
    return f"code/{sha256}.zip"


def run_folder(run_id: str) -> str:
    """Prefix of all that is known about a run."""
    return f"{RUNS}{run_id}/"


def run_record(run_id: str) -> str:
    """Key of the run record."""
    return f"{RUNS}{run_id}/run.json"


def plan(run_id: str) -> str:
    """Key of the plan as recorded."""
    return f"{RUNS}{run_id}/plan.json"


def samples(run_id: str) -> str:
    """Key of the sample list as read."""
    return f"{RUNS}{run_id}/samples.tsv"


def run_failed(run_id: str) -> str:
    """Key of the list of cells that failed, written when the run has ended."""
    return f"{RUNS}{run_id}/failed.json"


def run_cells(run_id: str) -> str:
    """Key of the table of a run's cells, written when the run is judged."""
    return f"{RUNS}{run_id}/cells"


def run_definitions(run_id: str) -> str:
    """Key of the job definitions by which a run's jobs were submitted."""
    return f"{RUNS}{run_id}/definitions.json"


def run_widths(run_id: str) -> str:
    """Key of the widths of a run's steps: how many of their cells run side by side."""
    return f"{RUNS}{run_id}/widths.json"


def run_end(run_id: str) -> str:
    """Key of how the run ended."""
    return f"{RUNS}{run_id}/end.json"


def cancelled(run_id: str, order: str = "") -> str:
    """Key of an order to cancel cells of a run; the prefix of all when none is named."""
    return f"{RUNS}{run_id}/cancelled/{order}"


def run_config(run_id: str) -> str:
    """Key of the settings of a run, as merged from all places."""
    return f"{RUNS}{run_id}/config.json"


def run_workflow(run_id: str) -> str:
    """Key of the file that wires the steps of a run; the bundle has the steps alone."""
    return f"{RUNS}{run_id}/workflow.py"


def run_diff(run_id: str) -> str:
    """Key of what was changed in the working tree since the commit of a run."""
    return f"{RUNS}{run_id}/diff.patch"


def driver_order(run_id: str) -> str:
    """Key of what a driver job is ordered to run."""
    return f"{RUNS}{run_id}/driver.json"


def driver_config(run_id: str) -> str:
    """Key of a driver's merged configuration."""
    return f"{RUNS}{run_id}/config.toml"


def driver_log(run_id: str, piece: str = "") -> str:
    """Key of a piece of the log of a run's drivers; the prefix of all when none is named."""
    return f"{RUNS}{run_id}/driver/{piece}.log" if piece else f"{RUNS}{run_id}/driver/"


def events(run_id: str) -> str:
    """Prefix of what happened to a run."""
    return f"{RUNS}{run_id}/events/"


def event(run_id: str, event_id: str) -> str:
    """Key of one thing that happened to a run."""
    return f"{events(run_id)}{event_id}.json"


def release(date: str, run_id: str, name: str = "") -> str:
    """Key of a file of a release, by its key in the store; the prefix of all when none is named."""
    return f"{RELEASE}{date}/{run_id}/{name}"


def subset(subset_id: str) -> str:
    """Key of the record of samples that were copied from one store to another."""
    return f"subsets/{subset_id}.json"


def subset_end(subset_id: str) -> str:
    """Key of what such a copy made, when it was through."""
    return f"subsets/{subset_id}.end.json"


def submission(run_id: str, job: str, file: str) -> str:
    """Key of a file of one submission: `manifest.json`, `rows.txt`, `samples.txt`, `intent.json`, `sent.json`."""
    return f"{RUNS}{run_id}/submissions/{job}/{file}"


def submissions(run_id: str) -> str:
    """Prefix of a run's submissions."""
    return f"{RUNS}{run_id}/submissions/"


def live(run_id: str) -> str:
    """Key of the marker of a run that may have live jobs."""
    return f"{LIVE}{run_id}.json"


def driving(run_id: str) -> str:
    """Key of the marker of a driver that may run as a job."""
    return f"{DRIVING}{run_id}.json"


def pool_log(task_id: str, fence: int) -> str:
    """Key of the log of one attempt at a pool's task; ids may have slashes and have no exclamation marks."""
    return f"pool/logs/{task_id.replace('/', '!')}/{fence}.log"


def pilot(name: str = "") -> str:
    """Key of what is known of pilots that were launched at once; the prefix of all when none is named."""
    return f"pool/pilots/{name}.json" if name else "pool/pilots/"


def pilot_script() -> str:
    """Key of the script that pilots as jobs fetch and run."""
    return "pool/pilot.sh"


def driver(number: int) -> str:
    """Key of the n-th holder of the prefix."""
    return f"{DRIVER}{number:012d}.json"
