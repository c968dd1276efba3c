"""What `report` costs: writing the page of a run, and showing it in Chromium beside the least that could show it.

The least is a page with the same packed data and 45 lines of script, which unpack them and draw a heat map and curves
of concurrency on a canvas: nothing to read, to choose or to click. Both are opened in turn in one browser, each time
anew, and the time is that from navigation to the first drawing.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import tempfile
from array import array
from pathlib import Path
from typing import Any

from batch_pipeline.report.page.packing import PACKED
from benchmarks import table
from benchmarks.browser import Browser
from benchmarks.measure import peak_mib, run

#: Samples, and the most bytes of a page.
SIZES = {10_000: 1_000_000, 100_000: 4_000_000, 1_000_000: 40_000_000}
#: Of a page of so many samples: times the least, and bytes of the heap.
BOUNDED = 100_000
MOST_TIMES = 1.5
MOST_HEAP = 150_000_000
_LEAST = """<!DOCTYPE html><meta charset="utf-8"><canvas id="map" width="1000" height="240"></canvas>
%s
<script>
const cells = %d, widths = %s, colours = ["#eee", "#bfe3d6", "#93d1bc", "#5bb598", "#3b8fd4", "#e8c15a", "#d9a3bf",
  "#a0a7ae", "#8d6b3d", "#f0a878", "#b83c00"];
async function unpacked(id) {
  const packed = atob(document.getElementById(id).textContent), bytes = new Uint8Array(packed.length);
  for (let at = 0; at < packed.length; at++) bytes[at] = packed.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
function columnsOf(bytes) {
  let start = 0;
  return widths.map((width) => {
    const column = new Uint32Array(cells);
    for (let plane = 0; plane < width; plane++, start += cells) {
      for (let at = 0; at < cells; at++) column[at] |= bytes[start + at] << (8 * plane);
    }
    return column;
  });
}
const numberOf = (code) => (code < 1024 ? code : ((code & 511) + 512) * 2 ** ((code >> 9) - 1));
async function begin() {
  const context = document.getElementById("map").getContext("2d");
  const names = new TextDecoder().decode(await unpacked("names")).split("\\n");
  for (let step = 0; step < 3; step++) {
    const columns = columnsOf(await unpacked(`step-${step}`)), running = new Float64Array(1002);
    for (let x = 0; x < 1000; x++) {
      let worst = 0;
      const last = Math.max(Math.floor((x + 1) * cells / 1000), Math.floor(x * cells / 1000) + 1);
      for (let at = Math.floor(x * cells / 1000); at < last; at++) if (columns[0][at] > worst) worst = columns[0][at];
      context.fillStyle = colours[worst];
      context.fillRect(x, step * 40, 1, 30);
    }
    for (let at = 0; at < cells; at++) {
      running[Math.min(1000, Math.floor(columns[4][at] / 100))] += 1;
      running[Math.min(1001, Math.floor((columns[4][at] + numberOf(columns[5][at]) / 1000) / 100) + 1)] -= 1;
    }
    for (let x = 0, now = 0; x < 1000; x++) {
      now += running[x];
      context.fillRect(x, 150 + step * 30, 1, 30 * now / cells);
    }
  }
}
begin().then(() => { document.body.dataset.ready = "yes"; });
</script>
"""


def main(*, rounds: int, results_folder: Path) -> None:
    """Writes and opens the page of every size, prints and keeps."""
    figures: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="report-") as folder:
        for size in SIZES:
            figures[size] = written_alone(size, Path(folder)) | shown(size, Path(folder), rounds)
    rows = [
        (
            f"{size:,} x 3",
            f"{one['write_seconds']:.2f}",
            f"{one['mib']:.0f}",
            str(one["store_calls"]),
            f"{one['bytes'] / 1e6:.2f}",
            f"{one['show_seconds']:.3f}",
            f"{one['least_seconds']:.3f}",
            f"{one['show_seconds'] / one['least_seconds']:.2f}",
            f"{one['heap'] / 1e6:.0f}",
        )
        for size, one in figures.items()
    ]
    bounded = figures[BOUNDED]
    times = bounded["show_seconds"] / bounded["least_seconds"]
    header = ("page of", "written, CPU s", "MiB more", "store calls", "MB", "shown s", "least s", "times", "heap MB")
    notes = [
        *(
            table.verdict(figures[size]["bytes"], most, f"{size:,} x 3 in {most / 1e6:.0f} MB")
            for size, most in SIZES.items()
        ),
        table.verdict(times, MOST_TIMES, f"{BOUNDED:,} x 3 shown in {MOST_TIMES} x the least"),
        table.verdict(bounded["heap"], MOST_HEAP, f"{BOUNDED:,} x 3 in a heap of {MOST_HEAP / 1e6:.0f} MB"),
        f"load now {table.load()}",
    ]
    table.show("report: the page of a run", header, rows, notes=notes)
    table.keep("report", {"machine": table.machine(), "results": figures}, results_folder)


def written_alone(size: int, folder: Path) -> dict[str, float]:
    """Writes both pages in a process of its own, for its memory."""
    import os

    root = Path(__file__).resolve().parent.parent
    log = folder / "log"
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "benchmarks.report", str(size), str(folder)]
    run(command, folder=root, environment=environment, log=log)
    figures: dict[str, float] = json.loads(log.read_text().splitlines()[-1])
    return figures


def write(size: int, folder: Path) -> dict[str, float]:
    """Writes `SIZE.html` and `SIZE-least.html` of a run with one failure; what that took."""
    import time

    from batch_pipeline.config import load_settings
    from batch_pipeline.wire.contract import EndReason
    from batch_pipeline.wire.store import open_store
    from benchmarks.report_runs import write_run

    store = open_store("memory://report")
    write_run(store, size, {("two", f"sample-{size // 2:07}"): (EndReason.STEP_FAILED, "planted\n")})
    store.calls.clear()
    resident, began = peak_mib(reset=True), time.process_time()
    page = _page(store, load_settings(environ={}))
    seconds, mib = time.process_time() - began, peak_mib(reset=False) - resident
    (folder / f"{size}.html").write_text(page)
    (folder / f"{size}-least.html").write_text(_least(page, size))
    calls = sum(store.calls.values())
    return {"write_seconds": seconds, "mib": mib, "bytes": len(page.encode()), "store_calls": calls}


def _page(store: Any, settings: Any) -> str:
    from batch_pipeline.backends.prices import tariff_of
    from batch_pipeline.records.registry import resolve
    from batch_pipeline.report.page.details import cells_to_detail, read_details
    from batch_pipeline.report.page.document import PageOptions, page_of_run
    from batch_pipeline.report.page.source import read_run

    source = read_run(store, settings, resolve(store, "last"))
    details = read_details(store, source.run.run_id, cells_to_detail(source.failed), ())
    options = PageOptions(program=["main.py"], written_at="2026-11-30T19:00:00.000Z", tariff=tariff_of(settings))
    return "".join(page_of_run(source, details, options))


def _least(page: str, size: int) -> str:
    """The least page with the packed data of a page."""
    blocks = re.findall(r'<script type="text/plain" id="[^"]*">[^<]*</script>', page)
    widths = [array(kind).itemsize for kind in PACKED.values()]
    return _LEAST % ("\n".join(blocks), size, widths)


def shown(size: int, folder: Path, rounds: int) -> dict[str, float]:
    """Medians of the seconds in which both pages show their cells, in interleaved rounds, and the heap of ours."""
    seconds: dict[str, list[float]] = {"show_seconds": [], "least_seconds": []}
    heap = 0.0
    with Browser(folder) as browser:
        for _ in range(max(rounds, 3)):
            for name, file in (("least_seconds", f"{size}-least.html"), ("show_seconds", f"{size}.html")):
                seconds[name].append(browser.seconds_to_show((folder / file).as_uri()))
            heap = max(heap, browser.heap_bytes())
    return {name: statistics.median(values) for name, values in seconds.items()} | {"heap": heap}


if __name__ == "__main__":
    print(json.dumps(write(int(sys.argv[1]), Path(sys.argv[2]))))
