"""luigid's page in a real browser, while a run is on. Its pictures are kept as artefacts."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from batch_pipeline.luigi_adapter.preparer import Preparer
from batch_pipeline.records.events import FailedCell, Outcome, StepProgress
from batch_pipeline.records.preparation import Preparation
from batch_pipeline.wire.contract import EndReason
from main import Fusions

pytestmark = [pytest.mark.browser, pytest.mark.engine]

CHROMIUM = shutil.which("chromium") or "chromium"
CHROMEDRIVER = shutil.which("chromedriver") or "chromedriver"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1500,1000",
    # Chromium asks its maker and luigid's page asks for fonts; neither is part of the test.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]


def artefacts() -> Path:
    """The folder of what tests leave to look at."""
    folder = Path(os.environ.get("BATCH_PIPELINE_ARTIFACTS", "artifacts"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Page:
    """A tab of a real Chromium, through WebDriver's HTTP."""

    def __init__(self, driver: str, profile: Path) -> None:
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
        session = self._call(f"{driver}/session", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
        self._session = f"{driver}/session/{session['sessionId']}"

    def open(self, url: str) -> None:
        self._call(f"{self._session}/url", {"url": url})

    def ask(self, script: str) -> Any:
        return self._call(f"{self._session}/execute/sync", {"script": f"return {script}", "args": []})

    def text(self, selector: str) -> list[str]:
        """Text of the visible elements of a selector."""
        elements = f"[...document.querySelectorAll({json.dumps(selector)})]"
        found: list[str] = self.ask(f"{elements}.filter(e => e.offsetParent).map(e => e.innerText.trim())")
        return found

    def click(self, selector: str) -> None:
        self.ask(f"document.querySelector({json.dumps(selector)}).click()")

    def shoot(self, name: str) -> None:
        self.ask("Promise.all(document.getAnimations().map(animation => animation.finished))")
        (artefacts() / name).write_bytes(base64.b64decode(self._call(f"{self._session}/screenshot")))

    def close(self) -> None:
        self._call(self._session, method="DELETE")

    @staticmethod
    def _call(url: str, body: Any = None, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(url, data=data, method=method), timeout=60) as response:
            return json.load(response)["value"]


@pytest.fixture
def page(tmp_path: Path, port: int, eventually: Callable[..., None]) -> Iterator[Page]:
    driver = subprocess.Popen(
        [CHROMEDRIVER, f"--port={port}", "--allowed-ips=127.0.0.1"], stdout=subprocess.DEVNULL, cwd=tmp_path
    )

    def ready() -> bool:
        try:
            return bool(Page._call(f"http://127.0.0.1:{port}/status")["ready"])
        except OSError:
            return False

    try:
        eventually(ready, True)
        tab = Page(f"http://127.0.0.1:{port}", tmp_path / "profile")
        yield tab
        tab.close()
    finally:
        driver.terminate()
        driver.wait()


def test_the_page_shows_every_step_with_progress_status_and_edges(
    luigid: str, drivers: Any, progress: Any, rpc: Any, page: Page, eventually: Any
) -> None:
    adapter = drivers(luigid).adapter("04A")
    adapter.submit_all()
    counts = progress(
        trim={"done": 9},
        count={"done": 7, "running": 1, "failed": {EndReason.OUT_OF_MEMORY: 1}},
        sort={"done": 3, "running": 2, "waiting": 4},
        merge={"running": 1, "waiting": 8},
    )
    adapter.progressed(counts)
    diamond = adapter.task_ids["Diamond"]  # the last that is told
    eventually(lambda: rpc(luigid, "dep_graph", task_id=diamond)[diamond]["status"], "RUNNING")

    visualiser = f"{luigid}/static/visualiser/index.html"
    page.open(f"{visualiser}#search__search=04A")
    rows = "#taskTable tbody tr[role=row]"
    eventually(lambda: {tuple(row.split()[:2]) for row in page.text(rows)} >= {("RUNNING", "count")}, True)
    shown = {row.split()[1]: row for row in page.text(rows)}
    assert {step: row.split()[0] for step, row in shown.items()} == {
        "trim": "DONE",
        "count": "RUNNING",
        "sort": "RUNNING",
        "merge": "RUNNING",
        "Diamond": "RUNNING",
    }
    assert "settings=depth=7" in shown["count"].replace(" ", "")
    links = page.ask("[...document.querySelectorAll('#taskTable a[title=\"Track Progress\"]')].map(a => a.href)")
    assert set(links) == {"http://127.0.0.1/runs/it"}
    page.shoot("luigi-tasks.png")

    page.click(f"#taskTable button.statusMessage[data-task-id={adapter.task_ids['count']}]")
    modal = "#statusMessageModal"
    eventually(lambda: page.text(f"{modal} pre"), ["7/9 done, 1 running, 1 failed: out of memory"])
    eventually(lambda: page.text(f"{modal} .progress-bar"), ["88%"])
    page.shoot("luigi-status.png")

    page.open("about:blank")
    page.open(f"{visualiser}#tab=workers")
    bar = "#workerList .taskProgressBar[data-task-id={}]".format
    eventually(lambda: page.text(bar(adapter.task_ids["sort"])), ["33%"])
    assert page.text(bar(adapter.task_ids["count"])) == ["88%"]
    page.shoot("luigi-workers.png")

    page.open("about:blank")
    page.open(f"{visualiser}#tab=graph&visType=d3&taskId={diamond}")
    eventually(lambda: {word for text in page.text("#dependencyGraph") for word in text.split()} >= set(counts), True)
    page.shoot("luigi-graph.png")


def test_the_page_shows_a_failure_with_its_reason(
    luigid: str, drivers: Any, progress: Any, page: Page, eventually: Any
) -> None:
    adapter = drivers(luigid).adapter("04B")
    adapter.submit_all()
    counts = progress(
        trim={"done": 9},
        count={"done": 8, "failed": {EndReason.OUT_OF_MEMORY: 1}},
        sort={"done": 9},
        merge={"done": 8, "failed": {EndReason.DEPENDENCY: 1}},
    )
    cell = FailedCell(step="count", sample="NA<b>1", reason=EndReason.OUT_OF_MEMORY, message="It needed 9 GiB.")
    adapter.ended(Outcome(run_ids=["04B"], progress=counts, failed=[cell]))
    adapter.close()

    page.open(f"{luigid}/static/visualiser/index.html#search__search=04B")
    button = "#taskTable button.showError"
    eventually(lambda: len(page.text(button)), 3)  # count, merge and the workflow
    rows = "[...document.querySelectorAll('#taskTable tbody tr')]"
    page.ask(f"{rows}.find(row => row.innerText.includes('count')).querySelector('button.showError').click()")
    eventually(lambda: any("NA<b>1: out of memory: It needed 9 GiB." in t for t in page.text("#errorModal pre")), True)
    page.shoot("luigi-failure.png")


def test_the_page_shows_preparations_before_the_steps_and_a_gather_that_did_without_a_sample(
    luigid: str, drivers: Any, rpc: Any, page: Page, eventually: Any
) -> None:
    missing = ["image_base", "image_multiqc"]
    preparations = [
        Preparation(
            name=name,
            title=name,
            missing=lambda name=name: "it was never built" if name in missing else "",  # type: ignore[misc]
            make=lambda name=name: missing.remove(name),  # type: ignore[misc]
            remedy="`deploy images`.",
            needs=needs,
        )
        for name, needs in (("image_base", ()), ("image_multiqc", ("image_base",)))
    ]
    preparer = Preparer("Fusions", preparations, scheduler_url=luigid, say=lambda sentence: None)
    preparer.run()
    adapter = drivers(luigid).adapter("04C", Fusions, preparer=preparer)
    adapter.submit_all()
    counts = {step: StepProgress(step=step, done=1) for step in ("cram", "cohort", "multiqc")}
    counts |= {step: StepProgress(step=step, done=2) for step in ("picard", "kallisto")}
    counts["pizzly"] = StepProgress(step="pizzly", done=1, failed={EndReason.INVALID_OUTPUT: 1})
    cell = FailedCell(step="pizzly", sample="S2", reason=EndReason.INVALID_OUTPUT, message="Its table is cut off.")
    adapter.ended(Outcome(run_ids=["04C"], progress=counts, failed=[cell]))
    task = adapter.task_ids["Fusions"]
    adapter.close()
    eventually(lambda: rpc(luigid, "dep_graph", task_id=task)[task]["status"], "FAILED")

    states = {each["name"]: each["status"] for each in rpc(luigid, "dep_graph", task_id=task).values()}
    done = dict.fromkeys((*counts, "prepare.image_base", "prepare.image_multiqc", "prepare.Fusions"), "DONE")
    assert states == {**done, "pizzly": "FAILED", "Fusions": "FAILED"}
    page.open(f"{luigid}/static/visualiser/index.html#tab=graph&visType=d3&taskId={task}")
    names = {"cohort", "multiqc", "prepare.image_multiqc", "prepare.Fusions"}
    eventually(lambda: names <= {word for text in page.text("#dependencyGraph") for word in text.split()}, True)
    page.shoot("luigi-preparations.png")
