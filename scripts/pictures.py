"""Makes the pictures of the docs in Chromium: report, heat map, service, Luigi's page, and a drawn graph.

`python -m scripts.pictures` (or `make pictures`) writes them to docs/pictures, or to the folder that is named. The runs
are made up; pages, service and luigid are the real ones. A test makes them too, and looks that none is blank.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

from batch_pipeline import Input, Output, Step, WorkflowTask
from batch_pipeline.backends.prices import Tariff
from batch_pipeline.config import load_settings
from batch_pipeline.luigi_adapter import daemon
from batch_pipeline.luigi_adapter.scheduler import call
from batch_pipeline.luigi_adapter.submit import LuigiAdapter
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.events import StepProgress
from batch_pipeline.records.record import RunRecord, new_run_id, write_end
from batch_pipeline.records.registry import resolve
from batch_pipeline.report.graph_svg import graph_svg
from batch_pipeline.report.page.details import cells_to_detail, read_details
from batch_pipeline.report.page.document import PageOptions, page_of_run
from batch_pipeline.report.page.source import read_run
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.durable import put
from batch_pipeline.wire.store import Store, open_store
from benchmarks.browser import Browser, until
from benchmarks.measure import BenchmarkFailed
from benchmarks.report_runs import Cell, write_run
from main import Fusions

FOLDER: Final = Path(__file__).resolve().parent.parent / "docs" / "pictures"
_USER: Final = "ada@example.org"
_ABOUT: Final = {"description": "The spring cohort", "user": "ada", "identity": _USER, "host": "login-1"}
#: Most bytes of a picture, and of all together.
MOST_BYTES: Final = 150_000
MOST_BYTES_OF_ALL: Final = 1_000_000
_POLICY: Final = """
dataset = "{dataset}"

[levels.standard]
store = "{store}"
output_prefix = "analysis"
queue = "main"
job_role = "arn:aws:iam::111122223333:role/{dataset}-main"
members = ["{user}"]
without_image = true
"""


class Tool(Step):
    """Stands for a tool."""

    reads = Input()
    made = Output("made")
    command = "cp {reads} {made}"


class SampleFusions(WorkflowTask):
    """Finds gene fusions: the steps that a sample has."""

    def workflow(self) -> None:
        """Reads -> picard -> kallisto -> pizzly."""
        picard, kallisto, pizzly = (self.new_task(name, Tool) for name in ("picard", "kallisto", "pizzly"))
        picard.in_reads = self.source("{sample}.txt")
        kallisto.in_reads = picard.out_made
        pizzly.in_reads = kallisto.out_made


def make_pictures(folder: Path) -> list[Path]:
    """Writes all pictures into a folder; returns their files. Raises BenchmarkFailed where Chromium is missing."""
    files = []
    with tempfile.TemporaryDirectory(prefix="pictures-") as work, Browser(Path(work)) as browser:
        for make in (_report, _heat_map, _graph, _service, _luigi):
            for name, picture in make(browser, Path(work)):
                file = folder / name
                put(str(file), picture)
                files.append(file)
    return files


def _report(browser: Browser, work: Path) -> Iterator[tuple[str, bytes]]:
    store = open_store("memory://pictures-report")
    write_run(store, 300, _bad_day(), SampleFusions, pipeline_name="Fusions", **_ABOUT)
    browser.open(_page(store, work / "report.html"))
    browser.wait_for("document.body.dataset.ready === 'yes'")
    yield "report.png", browser.picture(width=1180, height=1000)
    yield "report-dark.png", browser.picture(width=1180, height=1000, dark=True)
    yield "report-failures.png", browser.picture(width=1180, height=760, scroll_to="#failures")
    yield "report-time.png", browser.picture(width=1180, height=860, scroll_to="#time")


def _heat_map(browser: Browser, work: Path) -> Iterator[tuple[str, bytes]]:
    store = open_store("memory://pictures-heat-map")
    planted = {("kallisto", "sample-0014823"): (EndReason.OUT_OF_MEMORY, "Killed\n")}
    write_run(store, 20_000, planted, SampleFusions)
    browser.open(_page(store, work / "heat-map.html"))
    browser.wait_for("document.body.dataset.ready === 'yes'")
    yield "heat-map.png", browser.picture(width=1180, height=400, scroll_to="#map")


def _graph(browser: Browser, work: Path) -> Iterator[tuple[str, bytes]]:
    file = work / "graph.html"
    svg = graph_svg(Graph.of(Fusions), {}, reference="GRCh38.91")
    file.write_text(f'<!DOCTYPE html><meta charset="utf-8"><title>Fusions</title><body style="margin: 16px">{svg}')
    browser.open(file.as_uri())
    size = browser.ask("(r => [r.right, r.bottom])(document.querySelector('svg').getBoundingClientRect())")
    width, height = (round(side) + 16 for side in size)
    yield "dag.png", browser.picture(width=width, height=height)


def _service(browser: Browser, work: Path) -> Iterator[tuple[str, bytes]]:
    (work / "policies").mkdir()
    for dataset, runs in _SERVICE_RUNS.items():
        store_folder = work / dataset
        store_folder.mkdir()
        policy = _POLICY.format(dataset=dataset, store=store_folder, user=_USER)
        (work / "policies" / f"{dataset}.toml").write_text(policy)
        for description, done, failed in runs:
            _record(open_store(str(store_folder)), dataset, description, done, failed)
    with _serving(work) as url:
        browser.open(url)
        browser.wait_for("document.querySelectorAll('table.runs tbody tr').length > 4")
        yield "service.png", browser.picture(width=1180, height=700)


def _luigi(browser: Browser, work: Path) -> Iterator[tuple[str, bytes]]:
    graph = Graph.of(SampleFusions)
    url, _ = daemon.start(port=_free_port(), state_folder=work / "luigid")
    submitted: list[str] = []
    adapter = LuigiAdapter(
        graph,
        run_id=new_run_id(),
        submit=submitted.append,
        submitted=submitted.__contains__,
        tracking_url="",
        scheduler_url=url,
        log_folder=work / "log",
        luigid_folder=work / "luigid",
    )
    try:
        adapter.submit_all()
        counts = {"picard": (300, 0, 0), "kallisto": (241, 38, 21), "pizzly": (198, 12, 90)}
        adapter.progressed(
            {
                step: StepProgress(step=step, done=done, running=running, waiting=waiting)
                for step, (done, running, waiting) in counts.items()
            }
        )
        until(lambda: len(call(url, "task_list", status="RUNNING", upstream_status="")) == 3, "luigid")
        browser.open(f"{url}/static/visualiser/index.html#search__search=")
        browser.wait_for("document.querySelector('#taskTable')?.innerText.includes('kallisto')")
        yield "luigi.png", browser.picture(width=1280, height=720)
    finally:
        adapter.close()
        daemon.stop(work / "luigid")


def _bad_day() -> Mapping[Cell, tuple[EndReason, str]]:
    """Failures of several causes."""
    chance = random.Random(3)
    samples = [f"sample-{number:07}" for number in chance.sample(range(300), 19)]
    killed = {
        ("kallisto", sample): (
            EndReason.OUT_OF_MEMORY,
            f"[quant] processed 8{number}2,131 reads\n[quant] finding pseudoalignments for the reads ...\nKilled\n",
        )
        for number, sample in enumerate(samples[:12])
    }
    cut = {
        ("picard", sample): (
            EndReason.STEP_FAILED,
            "INFO SamToFastq Processed 1,000,000 records\nERROR Premature end of file: the BAM is cut off\n",
        )
        for sample in samples[12:17]
    }
    slow = {("pizzly", sample): (EndReason.TIMEOUT, "filtering fusions ... 99 %\n") for sample in samples[17:]}
    return killed | cut | slow


#: Dataset -> description of a run, and its done and failed cells; None: it is live.
_SERVICE_RUNS: Final[Mapping[str, Sequence[tuple[str, int | None, int]]]] = {
    "fusions": (
        ("Reference GRCh38.91 with decoys", 1, 0),
        ("The spring cohort, first half", 1_437, 3),
        ("The spring cohort, second half", 1_536, 0),
        ("Recount with 100 bootstraps", None, 0),
    ),
    "methylation": (("Controls of the pilot study", 96, 0), ("Islands, all chromosomes", 2_112, 14)),
}


def _record(store: Store, dataset: str, description: str, done: int | None, failed: int) -> None:
    """A run as its driver would have recorded it."""
    record = RunRecord(
        run_id=new_run_id(),
        started_at="2026-11-30T12:00:00.000Z",
        kind="driver",
        pipeline="main.py",
        user=_USER,
        identity=_USER,
        repository=f"https://github.com/lab/{dataset}",
        commit="3fa9c2d1" * 5,
        dataset=dataset,
        access_level="standard",
        output_prefix="analysis/cohort-7",
        argv=("main.py", "--all"),
        description=description,
    )
    store.put_if_absent(layout.run_record(record.run_id), json.dumps(asdict(record)).encode())
    if done is not None:
        write_end(store, record.run_id, done=done, failed=failed)


@contextmanager
def _serving(work: Path) -> Iterator[str]:
    """The service on this machine; afterwards it has ended."""
    port = _free_port()
    (work / "service.toml").write_text(
        f'[access]\npolicies = "{work / "policies"}"\n[server]\nport = {port}\naudit = "{work / "audit.jsonl"}"\n'
    )
    command = [sys.executable, "-m", "batch_pipeline", "serve", "--insecure-user", _USER]
    environment = os.environ | {"BATCH_PIPELINE__EMBEDDED__STATE": str(work / "state")}
    process = subprocess.Popen([*command, "--config", str(work / "service.toml")], env=environment, cwd=work)
    try:
        until(lambda: _listens(port, process), "the service")
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


def _page(store: Store, file: Path) -> str:
    """Writes the page of the newest run; returns its URL."""
    settings = load_settings(environ={})
    source = read_run(store, settings, resolve(store, "last"))
    details = read_details(store, source.run.run_id, cells_to_detail(source.failed), ())
    tariff = Tariff(currency="USD", flat=(0.04, 0.004), assumed=(0.0, 0.0))
    options = PageOptions(program=["python", "main.py"], written_at="2026-11-30T19:00:00.000Z", tariff=tariff)
    file.write_text("".join(page_of_run(source, details, options)))
    return file.as_uri()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Whether the server listens. Raises BenchmarkFailed when its process has ended."""
    if process.poll() is not None:
        raise BenchmarkFailed("The service did not start; its words are above.")
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def main(argv: Sequence[str]) -> None:
    """Makes the pictures and prints their sizes. Ends with 1 when they are too large."""
    files = make_pictures(Path(argv[0]) if argv else FOLDER)
    sizes = {file.name: file.stat().st_size for file in files}
    for name, size in sizes.items():
        print(f"{size:>9,} {name}")
    if max(sizes.values()) > MOST_BYTES or sum(sizes.values()) > MOST_BYTES_OF_ALL:
        sys.exit(f"A picture may have {MOST_BYTES:,} bytes, and all together {MOST_BYTES_OF_ALL:,}.")


if __name__ == "__main__":
    main(sys.argv[1:])
