"""Drivers that are interrupted at any moment: one run, nothing submitted twice, the record complete."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batch_pipeline.wire.processes import find, session_of
from tests.access.conftest import begin
from tests.access.site import Site, events_of, read, until

pytestmark = pytest.mark.faults

SAMPLES = ("ann", "bob")
#: Its first step waits until the test says so.
FILES = {
    "held.py": """from __future__ import annotations
from batch_pipeline import Input, Output, Step, WorkflowTask

class Hold(Step):
    script = "hold.sh"
    memory_mb = 64
    text = Input()
    held = Output("{sample}.held.txt")

class Copy(Step):
    script = "copy.sh"
    memory_mb = 64
    text = Input()
    copied = Output("{sample}.copy.txt")

class Held(WorkflowTask):
    def workflow(self) -> None:
        hold = self.new_task("hold", Hold)
        copy = self.new_task("copy", Copy)
        hold.in_text = self.source("{sample}.txt")
        copy.in_text = hold.out_held

if __name__ == "__main__":
    Held.main()
""",
    "copy.sh": '#!/bin/sh\ncp "$INPUT_TEXT" "$SAMPLE.copy.txt"\n',
    "samples.txt": "".join(f"{sample}\n" for sample in SAMPLES),
    "drive.sh": "#!/bin/sh\nset -eu\npython3 -m batch_pipeline.container.put texts\n"
    "exec python3 held.py --sample-list-file samples.txt --sources texts\n",
    **{f"texts/{sample}.txt": f"{sample}\n" for sample in SAMPLES},
}


@pytest.fixture(autouse=True)
def released(site: Site) -> Iterator[None]:
    """Lets the first step go on whatever became of the test, or its cells would wait for ever."""
    yield
    (site.root / "go").touch()


def prepared(site: Site) -> None:
    hold = f'#!/bin/sh\nwhile [ ! -e {site.root}/go ]; do sleep 0.05; done\ncp "$INPUT_TEXT" "$SAMPLE.held.txt"\n'
    site.code.commit({**FILES, "hold.sh": hold})
    site.code.push()


def inner(site: Site) -> Path:
    """Where the pipeline writes."""
    return site.main / "out"


def began(site: Site, run: Path) -> bool:
    return bool(events_of(run))


def recorded(site: Site, run: Path) -> bool:
    return bool(list(inner(site).glob("runs/*/run.json")))


def one_sent(site: Site, run: Path) -> bool:
    return bool(list(inner(site).glob("runs/*/submissions/*/sent.json")))


def all_sent(site: Site, run: Path) -> bool:
    return len(list(inner(site).glob("runs/*/submissions/*/sent.json"))) == 2


MOMENTS = [began, recorded, one_sent, all_sent]


def attempts(run: Path) -> int:
    return sum(event["event"] == "driver began" for event in events_of(run))


def pid_of(run: Path) -> int:
    """The process of the attempt that began last."""
    return int([event for event in events_of(run) if event["event"] == "driver began"][-1]["pid"])


def finished(site: Site, run: Path) -> None:
    """Lets the pipeline go on, waits for the end, and checks that there is one of everything."""
    (site.root / "go").touch()
    until((run / "end.json").exists, "the driver's end")
    end = read(run / "end.json")
    assert (end["done"], end["failed"], end["problem"], end["attempt"]) == (1, 0, "", attempts(run))
    # A pipeline that was interrupted before it had sent all of its jobs leaves the rest to a run of its own.
    children = sorted(inner(site).glob("runs/*/run.json"))
    assert end["children"] == [str(child.relative_to(site.main)) for child in children]
    assert {read(child)["parent_run"] for child in children} == {run.name}
    assert len(children) == 1 or attempts(run) == 2
    at_work = [child for child in children if list(child.parent.glob("submissions/*/sent.json"))]
    assert {read(child.with_name("end.json"))["failed"] for child in at_work} == {0}
    sent = [read(path) for path in inner(site).glob("runs/*/submissions/*/sent.json")]
    assert sorted(item["step"] for item in sent) == ["copy", "hold"]
    receipts = [read(path) for path in inner(site).glob("receipts/*/*/*.json")]
    assert sorted((item["step"], item["sample"]) for item in receipts) == [
        (step, sample) for step in ("copy", "hold") for sample in SAMPLES
    ]
    assert {item["attempt"] for item in receipts} == {1}
    assert [path.name for path in site.main.glob("runs/*")] == [run.name]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
def test_an_interrupted_driver_is_continued(moment: Callable[[Site, Path], bool], site: Site) -> None:
    """SIGTERM, as a Spot machine is taken back."""
    prepared(site)
    run = site.submitted("drive.sh")
    until(lambda: moment(site, run), moment.__name__)
    os.kill(pid_of(run), signal.SIGTERM)
    until(lambda: attempts(run) == 2, "a second attempt")
    finished(site, run)
    assert [event["event"] for event in events_of(run)].count("driver interrupted") == 1


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
def test_a_driver_whose_host_is_lost_is_continued(moment: Callable[[Site, Path], bool], site: Site) -> None:
    prepared(site)
    server = begin(site.state)
    run = site.submitted("drive.sh")
    until(lambda: moment(site, run), moment.__name__)
    lose_host(server, pid_of(run))
    begin(site.state)
    until(lambda: attempts(run) == 2, "a second attempt")
    finished(site, run)


def lose_host(server: int, worker: int) -> None:
    """Kills the server, a worker and what that one runs as if at once: all stand still before the first one dies.

    A worker that saw its script die would write the end of the run, a script that saw the server die would start
    another one. It is their order here, from the script to the server, that would show it.
    """
    script = [pid for pid in find(lambda pid: session_of(pid) == worker) if pid != worker]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in (*script, worker, server):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
