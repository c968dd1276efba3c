"""The service's pages in a real browser, as through a proxy with logins. Their pictures are kept as artefacts."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.access.service.lab import ALICE, Lab
from tests.access.service.serving import served
from tests.luigi.conftest import free_port
from tests.luigi.test_luigi_page import CHROMEDRIVER, Page
from tests.run.small import Stage, drive, request_of

pytestmark = [pytest.mark.browser, pytest.mark.engine]

HEADER = "X-Auth-Request-Id-Token"
SECONDS = 20.0
REPORT = b"""<!doctype html><title>Report</title><h1>Quality of cohort 7</h1><p id="told">nothing yet</p>
<style>body { font: 16px system-ui; margin: 3rem; } p { color: #19703b; }</style>
<script>
document.getElementById("told").innerText = "drawn by its own script";
window.reached = "nothing yet";
fetch("/runs").then(() => { window.reached = "runs"; }, () => { window.reached = "nothing"; });
try { window.kept = String(document.cookie + localStorage.length); } catch (error) { window.kept = "nothing"; }
</script>
"""


class Tab(Page):
    """A tab whose requests come as through a proxy at which somebody has logged in."""

    def tell(self, command: str, **params: Any) -> None:
        """A command of the DevTools protocol."""
        self._call(f"{self._session}/goog/cdp/execute", {"cmd": command, "params": params})

    def log_in(self, token: str) -> None:
        self.tell("Network.enable")
        self.tell("Network.setExtraHTTPHeaders", headers={HEADER: token})

    def scheme(self, name: str) -> None:
        self.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def size(self, width: int, height: int) -> None:
        self.tell("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def until(self, ask: Callable[[], Any], expected: Any) -> None:
        deadline = time.monotonic() + SECONDS
        while (answer := ask()) != expected and time.monotonic() < deadline:
            time.sleep(0.02)
        assert answer == expected


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    port = free_port()
    driver = subprocess.Popen(
        [CHROMEDRIVER, f"--port={port}", "--allowed-ips=127.0.0.1"], stdout=subprocess.DEVNULL, cwd=tmp_path
    )
    try:
        deadline = time.monotonic() + SECONDS
        while not _ready(port) and time.monotonic() < deadline:
            time.sleep(0.02)
        made = Tab(f"http://127.0.0.1:{port}", tmp_path / "profile")
        yield made
        made.close()
    finally:
        driver.terminate()
        driver.wait()


def _ready(port: int) -> bool:
    try:
        return bool(Page._call(f"http://127.0.0.1:{port}/status")["ready"])
    except OSError:
        return False


@pytest.fixture
def url(lab: Lab) -> Iterator[str]:
    with served(lab.app(token_header=HEADER)) as found:
        yield found


def runs_of(lab: Lab) -> dict[str, str]:
    """Runs of all kinds, oldest first: description -> id."""
    carol = {"user": "carol@example.org", "identity": "carol@example.org"}
    told: list[tuple[str, dict[str, Any]]] = [
        ("Index of GRCh38.91", {"place": "fusions-main", "done": 1, **carol}),
        ("The spring cohort, first half", {"done": 480, "failed": 3}),
        ("The spring cohort, second half", {"place": "fusions-main", "done": 512}),
        ("<script>window.pwned = 1</script>", {"done": 2, **carol}),
        ("Recount with 100 bootstraps", {"commit": "7f" * 20}),
    ]
    return {text: lab.record(**{"place": "fusions-test", **more}, description=text) for text, more in told}


def test_runs_are_listed_filtered_and_shown(lab: Lab, url: str, tab: Tab) -> None:
    made = runs_of(lab)
    failing = lab.record(description="Mouse, a trial")
    lab.fail_submission(failing, "The job queue fusions-test is disabled.")
    lab.record("methylation-test", description="Nothing of alice's")
    tab.log_in(lab.issuer.token())

    tab.scheme("light")
    tab.open(url)
    links = "table.runs .what a"
    assert tab.text(links) == ["Mouse, a trial", *reversed(made)]
    assert tab.text("table.runs .status") == ["failed", "live", "done", "done", "failed", "done"]
    assert tab.text(".user") == [ALICE]
    assert tab.ask("typeof window.pwned") == "undefined"
    assert tab.ask("getComputedStyle(document.querySelector('.wide')).borderRadius") == "10px"
    tab.shoot("service-runs.png")

    tab.ask("document.querySelector('select[name=status]').value = 'failed'")
    tab.ask("document.querySelector('input[name=user]').value = 'alice@example.org'")
    tab.click(".filters button")
    tab.until(lambda: tab.text(links), ["Mouse, a trial", "The spring cohort, first half"])
    assert tab.ask("document.querySelector('select[name=status]').value") == "failed"
    tab.scheme("dark")
    tab.shoot("service-runs-dark.png")
    tab.click(".filters .reset")
    tab.until(lambda: len(tab.text(links)), 6)

    tab.scheme("light")
    tab.ask("[...document.querySelectorAll('table.runs .what a')].find(a => a.innerText.includes('first')).click()")
    run_id = made["The spring cohort, first half"]
    tab.until(lambda: tab.ask("location.pathname"), f"/runs/{run_id}")
    assert tab.text("h1") == ["The spring cohort, first half"]
    told = dict(zip(tab.text("dt"), tab.text("dd"), strict=True))
    assert told["commit"] == "3fa9" * 10
    assert told["access level"] == "test"
    assert tab.text("pre.command") == ["main.sh --all"]
    tab.shoot("service-run.png")

    tab.size(400, 800)
    tab.open(f"{url}/runs/{failing}")
    assert "submission failed: The job queue fusions-test is disabled." in tab.text(".notice")
    assert tab.ask("document.documentElement.scrollWidth") <= 400
    tab.shoot("service-run-narrow.png")


def test_results_are_viewed_and_a_report_reaches_nobody(lab: Lab, url: str, tab: Tab) -> None:
    run_id = lab.record(done=3)
    lab.result("cohort-7/report.html", REPORT)
    lab.result("cohort-7/fusions.tsv", b"sample\tgenes\nS1\tBCR--ABL1\n")
    lab.result("cohort-7/reads.bam", b"\x1f\x8b" * 4096)
    lab.result("cohort-7/plots/coverage.png", b"")
    tab.log_in(lab.issuer.token())
    tab.open(f"{url}/runs/{run_id}")
    tab.click(".lead .button")
    tab.until(lambda: tab.ask("location.pathname"), "/fusions/test/cohort-7/")
    assert tab.text("table.folder a") == ["..", "plots/", "fusions.tsv", "reads.bam", "report.html"]
    assert tab.text("nav a") == ["Runs", "fusions", "test", "cohort-7"]
    tab.shoot("service-results.png")

    tab.ask("[...document.querySelectorAll('table.folder a')].find(a => a.innerText == 'report.html').click()")
    tab.until(lambda: tab.text("#told"), ["drawn by its own script"])
    tab.until(lambda: tab.ask("window.reached"), "nothing")
    assert tab.ask("[window.kept, window.origin]") == ["nothing", "null"]
    tab.shoot("service-report.png")

    tab.open(f"{url}/fusions/test/cohort-7/fusions.tsv")
    assert "BCR--ABL1" in tab.text("pre")[0]


def test_the_report_of_a_run_works_in_its_sandbox(lab: Lab, url: str, tab: Tab, tmp_path: Path) -> None:
    store = lab.store()
    (run_id,) = drive(request_of(store), Stage(store, lambda step, sample, _: int(sample == "bob"))).run_ids
    tab.log_in(lab.issuer.token())
    tab.open(f"{url}/runs/{run_id}")
    tab.click(".lead .button")
    tab.until(lambda: tab.ask("document.body.dataset.ready"), "yes")
    assert tab.ask("[location.pathname, window.origin]") == [f"/runs/{run_id}/report", "null"]
    tab.ask("document.getElementById('listing').open = true")
    tab.until(lambda: len(tab.text("#cells tbody tr")), 3)
    tab.ask("showCell(0, 1)")
    assert tab.text("#cell h3")[0] == "upper of bob"
    tab.ask("fetch('/runs').then(() => { window.reached = 'runs'; }, () => { window.reached = 'nothing'; })")
    tab.until(lambda: tab.ask("window.reached"), "nothing")
    tab.shoot("service-run-report.png")
    tab.tell("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    tab.ask("allCells()")
    tab.until(lambda: (tmp_path / f"cells-{run_id}.tsv").exists(), True)


def test_a_browser_without_a_login_is_told_so(lab: Lab, url: str, tab: Tab) -> None:
    runs_of(lab)
    tab.open(url)
    assert tab.text("h1") == ["Who are you?"]
    assert "cohort" not in json.dumps(tab.text("body"))
    tab.shoot("service-nobody.png")
