"""The page of a run in a real browser: one failure of 300,000 is seen, cells open, nothing leaves, nothing runs.

One tab for all tests; pictures are kept as artefacts.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from batch_pipeline import backends
from batch_pipeline.backends.prices import Tariff
from batch_pipeline.config import load_settings
from batch_pipeline.records.record import RunRecord
from batch_pipeline.records.registry import resolve
from batch_pipeline.report.page.details import CellDetail, cells_to_detail, details_by_run, read_details
from batch_pipeline.report.page.document import PageOptions, page_of_run, page_of_store
from batch_pipeline.report.page.source import StoreSource, read_run, read_store
from batch_pipeline.run.closing import index_run
from batch_pipeline.run.status import status
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.store import Store, open_store
from benchmarks.report_runs import write_run
from tests.luigi.conftest import free_port
from tests.luigi.test_luigi_page import CHROMEDRIVER, Page, artefacts
from tests.run.small import Stage, drive, new_store, request_of

pytestmark = [pytest.mark.browser, pytest.mark.engine]

SECONDS = 30.0
SAMPLES = 100_000
PLANTED = 71_823
HOSTILE = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>"
TARIFF = Tariff(currency="USD", flat=(0.04, 0.004), assumed=(0.0, 0.0))
#: The position in the canvas and the number of pixels that have the colour of failures, of the row of a step.
FAILED_PIXELS = """(() => {
  const canvas = document.getElementById("heat"), ratio = canvas.width / canvas.clientWidth;
  const top = Math.round((topOf(STEP) + ROW / 2) * ratio);
  const data = canvas.getContext("2d").getImageData(0, top, canvas.width, 1).data;
  const hex = colours().states[FAILED], wanted = [1, 3, 5].map(at => parseInt(hex.slice(at, at + 2), 16));
  const found = [];
  for (let x = 0; x < canvas.width; x++) {
    if (wanted.every((value, at) => Math.abs(data[4 * x + at] - value) < 40)) found.push(x / ratio);
  }
  return found;
})()"""


class Tab(Page):
    """A tab with the page of a run."""

    def tell(self, command: str, **params: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._call(f"{self._session}/goog/cdp/execute", {"cmd": command, "params": params})

    def show(self, file: Path) -> None:
        self.open(file.as_uri())
        self.until(lambda: self.ask("document.body.dataset.ready"), "yes")

    def until(self, ask: Callable[[], Any], expected: Any) -> None:
        deadline = time.monotonic() + SECONDS
        while (answer := ask()) != expected and time.monotonic() < deadline:
            time.sleep(0.02)
        assert answer == expected

    def shoot_whole(self, name: str) -> None:
        """Keeps the page and a picture of all of it as artefacts."""
        page = Path(urlsplit(self.ask("location.href")).path)
        (artefacts() / name).with_suffix(".html").write_bytes(page.read_bytes())
        height = self.ask("document.documentElement.scrollHeight")
        self.tell("Emulation.setDeviceMetricsOverride", width=1240, height=height, deviceScaleFactor=1, mobile=False)
        self.until(lambda: self.ask("innerHeight"), height)
        self.ask("new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(() => resolve())))")
        self.shoot(name)
        self.tell("Emulation.clearDeviceMetricsOverride")

    def scheme(self, name: str) -> None:
        self.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def click_at(self, x: float, y: float) -> None:
        """A real click on the map, in pixels of it."""
        left, top = self.ask(
            "(e => { e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            " return [r.left, r.top]; })(document.getElementById('heat'))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.tell(
                "Input.dispatchMouseEvent",
                type=kind,
                x=left + x,
                y=top + y,
                button="left",
                clickCount=1,
                pointerType="mouse",
            )

    def press(self, *keys: str) -> None:
        for key in keys:
            self.tell("Input.dispatchKeyEvent", type="keyDown", key=key)
            self.tell("Input.dispatchKeyEvent", type="keyUp", key=key)

    def choose(self, name: str, value: str, event: str = "change") -> None:
        self.ask(
            f"(e => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event({json.dumps(event)})); }})"
            f"(document.getElementById({json.dumps(name)}))"
        )

    def said(self) -> str:
        return str(self.ask("document.getElementById('pointed').textContent"))

    def errors(self) -> list[Any]:
        """What the console has, as from requests that were refused and scripts that failed."""
        log: list[Any] = self._call(f"{self._session}/se/log", {"type": "browser"})
        return log


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    folder = tmp_path_factory.mktemp("browser")
    port = free_port()
    driver = subprocess.Popen(
        [CHROMEDRIVER, f"--port={port}", "--allowed-ips=127.0.0.1"], stdout=subprocess.DEVNULL, cwd=folder
    )
    try:
        deadline = time.monotonic() + SECONDS
        while not _ready(port) and time.monotonic() < deadline:
            time.sleep(0.02)
        made = Tab(f"http://127.0.0.1:{port}", folder / "profile")
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


def page_file(store: Store, folder: Path, more: tuple[CellDetail, ...] = ()) -> Path:
    source = read_run(store, load_settings(environ={}), resolve(store, "last"))
    details = [*read_details(store, source.run.run_id, cells_to_detail(source.failed), ()), *more]
    options = PageOptions(program=["python", "main.py"], written_at="2026-11-30T19:00:00.000Z", tariff=TARIFF)
    file = folder / "report.html"
    file.write_text("".join(page_of_run(source, details, options)))
    return file


def sample(number: int) -> str:
    return f"sample-{number:07}"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100,000 x 3 cells, one of which failed."""
    store = open_store("memory://one-of-300000")
    write_run(store, SAMPLES, {("two", sample(PLANTED)): (EndReason.STEP_FAILED, "the planted failure\n")})
    return page_file(store, tmp_path_factory.mktemp("large"))


@pytest.fixture(scope="module")
def bad_day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 x 3 cells with failures of several causes, whose logs and messages are hostile."""
    store = open_store("memory://bad-day")
    failures = {
        ("one", sample(13 * number + 5)): (EndReason.STEP_FAILED, f"bad record {number}\n{HOSTILE}\n")
        for number in range(4)
    }
    failures |= {
        ("two", sample(11 * number + 3)): (EndReason.OUT_OF_MEMORY, f"reads 8{number}213\nKilled\n")
        for number in range(7)
    }
    failures["three", sample(298)] = (EndReason.TIMEOUT, "still aligning 99 %\n")
    write_run(store, 300, failures)
    hostile = CellDetail(step="three", sample=sample(0), problem=HOSTILE, fingerprint=HOSTILE, inputs=[HOSTILE])
    return page_file(store, tmp_path_factory.mktemp("bad-day"), (hostile,))


def test_pictures_can_be_read_on_a_phone(bad_day: Path, tab: Tab) -> None:
    """They are scrolled in their frames, for shrunk to 360 pixels their text would have four."""
    tab.tell("Emulation.setDeviceMetricsOverride", width=400, height=900, deviceScaleFactor=1, mobile=True)
    try:
        tab.show(bad_day)
        widths = "[...document.querySelectorAll('svg.curves, svg.boxes')].map(svg => svg.getBoundingClientRect().width)"
        assert min(tab.ask(widths)) > 600
        assert tab.ask("document.documentElement.scrollWidth") <= 400
    finally:
        tab.tell("Emulation.clearDeviceMetricsOverride")


def test_a_filter_that_fits_nothing_leaves_no_error_and_no_cause_hidden(bad_day: Path, tab: Tab) -> None:
    tab.show(bad_day)
    tab.ask("(() => { window.errors = []; addEventListener('error', event => errors.push(event.message)); })()")
    tab.ask("(() => { byId('filter').value = 'nosuch'; byId('filter').dispatchEvent(new Event('input')); })()")
    tab.until(lambda: tab.ask("order.length"), 0)
    keys = "['ArrowRight', 'ArrowDown', 'Enter', 'End', 'Enter', '+', '-', '0']"
    tab.ask(f"{keys}.forEach(key => byId('heat').dispatchEvent(new KeyboardEvent('keydown', {{ key }})))")
    assert tab.ask("errors") == []
    assert tab.ask("byId('cell').hidden")
    tab.click("button.show")
    assert tab.ask("order.length") > 0
    assert tab.ask("byId('filter').value") == ""


def test_tables_fit_on_paper(bad_day: Path, tab: Tab) -> None:
    """What is beside the paper's edge is not printed: A4 has 794 pixels."""
    tab.tell("Emulation.setDeviceMetricsOverride", width=794, height=1123, deviceScaleFactor=1, mobile=False)
    tab.tell("Emulation.setEmulatedMedia", media="print")
    try:
        tab.show(bad_day)
        assert tab.ask("document.documentElement.scrollWidth") <= 794
    finally:
        tab.tell("Emulation.setEmulatedMedia", media="")
        tab.tell("Emulation.clearDeviceMetricsOverride")


def test_one_failure_of_300000_is_seen_and_opens(large: Path, tab: Tab) -> None:
    assert large.stat().st_size < 4_000_000
    tab.show(large)
    assert tab.ask("performance.memory.usedJSHeapSize") < 150e6
    pixels = tab.ask(FAILED_PIXELS.replace("STEP", "1"))
    width = tab.ask("mapWidth()")
    expected = 150 + width * PLANTED / SAMPLES
    assert pixels
    assert all(abs(x - expected) < 4 for x in pixels)
    assert tab.ask(FAILED_PIXELS.replace("STEP", "0")) == []

    tab.click_at(pixels[len(pixels) // 2], tab.ask("topOf(1) + ROW / 2"))
    tab.until(lambda: tab.text("#cell h3"), [f"two of {sample(PLANTED)}", "Attempt 1: step failed, exit code 1"])
    assert tab.text("#cell pre") == ["the planted failure"]
    tab.shoot("report-one-of-300000.png")


def test_one_failure_of_300000_is_filtered_and_sorted_to_the_front(large: Path, tab: Tab) -> None:
    tab.show(large)
    tab.choose("filter", "LE-0071823", "input")
    tab.until(tab.said, "1 of 100,000 samples")
    tab.choose("filter", "", "input")
    tab.until(tab.said, "100,000 samples")
    choices = tab.ask("[...document.querySelectorAll('#only option')].map(e => e.textContent)")
    assert choices[1] == "two failed: step failed (1)"
    tab.choose("only", tab.ask("document.querySelectorAll('#only option')[1].value"))
    tab.until(tab.said, "1 of 100,000 samples")
    tab.choose("only", "")
    tab.choose("sort", "cause")
    assert tab.ask("names[order[0]]") == sample(PLANTED)
    tab.choose("sort", "time")
    took = "steps.reduce((sum, step) => sum + numberOf(step.duration[order[AT]]), 0)"
    assert tab.ask(took.replace("AT", "0")) >= tab.ask(took.replace("AT", "1")) > tab.ask(took.replace("AT", "99999"))


def test_the_map_is_zoomed_and_walked_by_keys(large: Path, tab: Tab) -> None:
    tab.show(large)
    tab.ask("document.getElementById('heat').focus()")
    tab.press("Home", "+", "+")
    assert tab.ask("[view.from, view.to]") == [0, 25_000]
    for _ in range(12):
        tab.press("+")
    assert tab.ask("[view.from, view.to - view.from]") == [0, 8]
    tab.press("ArrowRight", "ArrowRight", "ArrowDown")
    assert tab.said().startswith(f"two · {sample(2)} · done · ")
    tab.press("Enter")
    tab.until(lambda: tab.text("#cell h3"), [f"two of {sample(2)}"])
    run_id = tab.ask("meta.run")
    assert f"python main.py logs {sample(2)} two --run {run_id}" in tab.text("#cell .command")
    assert f"python main.py report {run_id} --cells two/{sample(2)}" in tab.text("#cell .command")
    tab.press("0")
    assert tab.ask("[view.from, view.to]") == [0, SAMPLES]


def test_nothing_leaves_the_page_and_nothing_in_it_runs(bad_day: Path, tab: Tab) -> None:
    tab.errors()
    tab.show(bad_day)
    tab.ask("showCell(2, 0)")
    tab.ask("fetch('https://example.org/').then(() => 'left', () => 'stayed')")
    tab.ask("document.getElementById('listing').open = true")
    tab.until(lambda: len(tab.text("#cells tbody tr")), 50)
    assert tab.ask("typeof window.pwned") == "undefined"
    assert tab.text("#cell .warning") == [HOSTILE]
    assert any(HOSTILE in text for text in tab.text(".cause pre"))
    requests = tab.ask("performance.getEntriesByType('resource').map(e => e.name)")
    assert requests == []
    # The request above is the one thing that was refused.
    assert all("example.org" in entry["message"] for entry in tab.errors())


def test_causes_lead_to_the_map_and_all_parts_are_there(bad_day: Path, tab: Tab) -> None:
    tab.errors()
    tab.scheme("light")
    tab.show(bad_day)
    assert tab.text(".cause h3") == [
        "two: out of memory 7 cells",
        "one: step failed 4 cells",
        "three: timeout 1 cell",
    ]
    tab.click(".cause:nth-of-type(1) button.show")
    tab.until(tab.said, "7 of 300 samples")
    tab.choose("only", "")
    titles = ["Samples × steps", "Failures", "Steps", "Over time", "Distributions", "What it took", "Provenance"]
    assert tab.text("h2") == [*titles, "Look closer"]
    tab.ask("document.getElementById('gantt').scrollIntoView()")
    tab.until(lambda: tab.ask("bars.length") > 500, True)
    tab.shoot_whole("report-bad-day.png")
    tab.scheme("dark")
    tab.shoot_whole("report-bad-day-dark.png")
    tab.scheme("light")
    assert tab.errors() == []


def test_tables_are_downloaded(bad_day: Path, tab: Tab, tmp_path: Path) -> None:
    tab.show(bad_day)
    tab.tell("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    run_id = tab.ask("meta.run")
    tab.ask("document.querySelector('table[data-name=failures]').parentElement.querySelector('button').click()")
    tab.ask("allCells()")
    failures, cells = tmp_path / f"failures-{run_id}.tsv", tmp_path / f"cells-{run_id}.tsv"
    tab.until(lambda: failures.exists() and cells.exists(), True)
    assert failures.read_text().splitlines()[0] == "step\twhy\tcells\tnever ran for it\tmessage\texample"
    lines = cells.read_text().splitlines()
    assert len(lines) == 1 + 3 * 300
    assert [line.split("\t")[3] for line in lines if line.split("\t")[2] == "failed"].count("out of memory") == 7


def test_a_gather_and_what_never_ran_are_shown(tab: Tab, tmp_path: Path) -> None:
    store = new_store()
    drive(request_of(store), Stage(store, lambda step, sample, _: int((step, sample) == ("upper", "bob"))))
    tab.errors()
    tab.show(page_file(store, tmp_path))
    tab.click_at(400, tab.ask("topOf(2) + ROW / 2"))
    tab.until(lambda: tab.text("#cell h3"), ["total of all samples"])
    assert tab.text("#legend li") == ["failed", "not run", "done"]
    tab.shoot_whole("report-gather.png")
    assert tab.errors() == []


def test_a_run_whose_driver_died_is_shown_without_times(
    tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store()
    stage = Stage(store, lambda step, sample, _: int((step, sample) == ("upper", "bob")))
    monkeypatch.setattr(backends, "create", lambda settings: stage)
    stage.is_open = False
    drive(request_of(store), stage, detach=True)
    stage.drain(stage._act)
    tab.errors()
    tab.show(page_file(store, tmp_path))
    assert tab.text(".badge") == ["nothing live"]
    assert tab.text("#legend li") == ["failed", "to run", "done"]
    assert tab.ask("document.getElementById('gantt')") is None
    tab.choose("colour", "duration")
    tab.choose("sort", "time")
    tab.shoot_whole("report-driver-died.png")
    assert tab.errors() == []


def test_a_receipt_that_is_cut_in_half_is_told_on_the_page(tab: Tab, tmp_path: Path) -> None:
    store = new_store()
    (run_id,) = drive(request_of(store), Stage(store)).run_ids
    key = next(iter(store.keys("receipts/count/ann/")))
    store.put(key, store.get(key)[:50])
    run = resolve(store, run_id)
    index_run(store, run)
    details = tuple(read_details(store, run_id, (), [("count", "ann")]))
    tab.errors()
    tab.show(page_file(store, tmp_path, details))
    tab.ask("showCell(1, 0)")
    assert len(tab.text("#cell .warning")) == 1
    assert any("There is no time of 1 cell" in words for words in tab.text("header .warning"))
    tab.shoot_whole("report-cut-receipt.png")
    assert tab.errors() == []


def test_a_run_without_cells_is_shown(tab: Tab, tmp_path: Path) -> None:
    store = new_store()
    record = RunRecord(run_id="01JD0000000000000000000000", started_at="2026-11-30T12:00:00.000Z", kind="driver")
    store.put(layout.run_record(record.run_id), json.dumps(asdict(record)).encode())
    tab.errors()
    tab.show(page_file(store, tmp_path))
    assert "This run runs a script, and has no cells of its own." in tab.text("header .warning")
    tab.shoot_whole("report-empty.png")
    assert tab.errors() == []


def test_a_store_is_shown_and_loaded_again(tab: Tab, tmp_path: Path) -> None:
    store = new_store()
    stage = Stage(store, lambda step, sample, _: int((step, sample) == ("upper", "bob")))
    drive(request_of(store, "ann"), stage)
    drive(request_of(store, description=HOSTILE), stage)
    source = read_store(store, status(request_of(store)), reference="")
    file = tmp_path / "all.html"
    tab.errors()
    tab.show(store_page(store, source, file))
    assert len(tab.text("table[data-name=runs] tbody tr")) == 2
    tab.ask("showCell(0, 1)")
    tab.until(lambda: tab.text("#cell h3")[:1], ["upper of bob"])
    tab.shoot_whole("report-store.png")
    tab.show(store_page(store, source, file, reload_seconds=1))
    tab.ask("window.isOld = true")
    tab.until(lambda: tab.ask("typeof window.isOld"), "undefined")
    assert tab.errors() == []


def store_page(store: Store, source: StoreSource, file: Path, reload_seconds: int = 0) -> Path:
    options = PageOptions(
        program=["main.py"], written_at="2026-11-30T19:00:00.000Z", tariff=TARIFF, reload_seconds=reload_seconds
    )
    file.write_text("".join(page_of_store(source, details_by_run(store, source.failed), options)))
    return file
