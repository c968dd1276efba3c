"""A pipeline, a driver that keeps its submissions in memory, and a real luigid on a port of its own."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from batch_pipeline import Input, Output, Param, Step, WorkflowTask
from batch_pipeline.luigi_adapter import daemon
from batch_pipeline.luigi_adapter.preparer import Preparer
from batch_pipeline.luigi_adapter.submit import LuigiAdapter
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.events import StepProgress
from tests.leftovers import keep_until_the_end

STEPS = ("trim", "count", "sort", "merge")


class Trim(Step):
    """Trims reads."""

    reads = Input()
    trimmed = Output("trimmed.fq")


class Count(Step):
    """Counts reads."""

    reads = Input()
    counts = Output("counts.tsv")
    depth: int = Param(3, help="how deep")


class Sort(Step):
    """Sorts reads, and has no output that anybody reads by a port of its own."""

    reads = Input()
    sorted = Output("sorted.fq")


class Merge(Step):
    """Merges what the two before it made."""

    counts = Input()
    reads = Input()


class Diamond(WorkflowTask):
    """trim feeds count and sort, both feed merge."""

    def workflow(self) -> None:
        trim = self.new_task("trim", Trim)
        count = self.new_task("count", Count)
        sort = self.new_task("sort", Sort)
        merge = self.new_task("merge", Merge)
        trim.in_reads = self.source("{sample}.fq")
        count.in_reads = trim.out_trimmed
        sort.in_reads = trim.out_trimmed
        merge.in_counts = count.out_counts
        merge.in_reads = sort.out_sorted


class Driver:
    """What stands behind an adapter: it submits into a list and remembers in a set."""

    def __init__(
        self, url: str | None = None, log_folder: Path | None = None, luigid_folder: Path | None = None
    ) -> None:
        self.url = url
        self.luigid_folder = luigid_folder
        self.log_folder = log_folder
        self.calls: list[str] = []
        self.records: set[str] = set()
        self.adapters: list[LuigiAdapter] = []
        self.failing: dict[str, BaseException] = {}

    def submit(self, step: str) -> None:
        if step in self.failing:
            raise self.failing[step]
        self.calls.append(step)
        self.records.add(step)

    def adapter(
        self, run_id: str, pipeline: type[WorkflowTask] = Diamond, *, preparer: Preparer | None = None
    ) -> LuigiAdapter:
        adapter = LuigiAdapter(
            Graph.of(pipeline, {"depth": 7} if pipeline is Diamond else {}),
            run_id=run_id,
            submit=self.submit,
            submitted=self.records.__contains__,
            tracking_url="http://127.0.0.1/runs/it",
            scheduler_url=self.url,
            log_folder=self.log_folder,
            luigid_folder=self.luigid_folder,
            preparer=preparer,
        )
        self.adapters.append(adapter)
        return adapter


@pytest.fixture
def drivers() -> Iterator[Callable[..., Driver]]:
    made: list[Driver] = []

    def make(url: str | None = None, log_folder: Path | None = None, luigid_folder: Path | None = None) -> Driver:
        made.append(Driver(url, log_folder, luigid_folder))
        return made[-1]

    yield make
    for driver in made:
        for adapter in driver.adapters:
            adapter.close()


@pytest.fixture
def progress() -> Callable[..., dict[str, StepProgress]]:
    def make(**counts: dict[str, Any]) -> dict[str, StepProgress]:
        return {step: StepProgress(step=step, **counts.get(step, {"waiting": 4})) for step in STEPS}

    return make


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture(scope="session")
def luigid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("luigid")
    keep_until_the_end(folder)
    yield daemon.start(port=free_port(), state_folder=folder)[0]
    assert daemon.stop(folder)


@pytest.fixture
def rpc() -> Callable[..., Any]:
    """Asks a scheduler as its page does."""

    def ask(url: str, method: str, **arguments: Any) -> Any:
        body = urlencode({"data": json.dumps(arguments)}).encode()
        with urlopen(f"{url}/api/{method}", data=body, timeout=10) as response:
            return json.load(response)["response"]

    return ask


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Asks until the answer is the expected one, and shows the last one when it never is."""

    def wait(ask: Callable[[], Any], expected: Any, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while (answer := ask()) != expected and time.monotonic() < deadline:
            time.sleep(0.02)
        assert answer == expected

    return wait
