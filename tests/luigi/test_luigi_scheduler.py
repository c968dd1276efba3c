"""The adapter with a real luigid: what its page gets to know, and that it refuses nothing behind our back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.luigi_adapter import daemon, scheduler
from batch_pipeline.luigi_adapter.states import LuigiTaskStatus
from batch_pipeline.luigi_adapter.submit import LuigiAdapter
from batch_pipeline.records.events import FailedCell, Outcome
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import BackendFailed, RunConflict

pytestmark = pytest.mark.engine

Make = Callable[..., Any]
STEPS = ["trim", "count", "sort", "merge"]


@pytest.fixture
def shown(rpc: Make) -> Make:
    """One field of each of an adapter's tasks, by step, as the scheduler has it."""

    def ask(url: str, adapter: LuigiAdapter, field: str) -> dict[str, Any]:
        found = {step: rpc(url, "dep_graph", task_id=id).get(id, {}) for step, id in adapter.task_ids.items()}
        return {step: about.get(field) for step, about in found.items()}

    return ask


def everywhere(value: Any) -> dict[str, Any]:
    return dict.fromkeys([*STEPS, "Diamond"], value)


def test_the_graph_has_the_ports_edges(luigid: str, drivers: Make, rpc: Make) -> None:
    driver = drivers(luigid)
    adapter = driver.adapter("02A")
    adapter.submit_all()
    ids = adapter.task_ids
    graph = rpc(luigid, "dep_graph", task_id=ids["Diamond"])
    edges = {(down, up) for down in ids for up in ids if ids[up] in graph[ids[down]]["deps"]}
    assert edges == {
        ("count", "trim"),
        ("sort", "trim"),
        ("merge", "count"),
        ("merge", "sort"),
        ("Diamond", "merge"),
    }
    assert driver.calls == STEPS
    assert {graph[id]["status"] for id in ids.values()} == {"DONE"}, "Luigi's part, the submission, is over"


def test_progress_of_all_steps_shows_at_once_and_the_edges_stay(
    luigid: str, drivers: Make, progress: Make, shown: Make, eventually: Make
) -> None:
    adapter = drivers(luigid).adapter("02B")
    adapter.submit_all()
    before = shown(luigid, adapter, "deps")
    adapter.progressed(
        progress(
            trim={"done": 3, "running": 1},
            count={"done": 7, "running": 1, "failed": {EndReason.OUT_OF_MEMORY: 1}},
            sort={"done_before": 4},
        )
    )
    eventually(lambda: shown(luigid, adapter, "status"), {**everywhere("RUNNING"), "sort": "DONE"})
    eventually(
        lambda: shown(luigid, adapter, "progress_percentage"),
        {"trim": 75, "count": 88, "sort": 100, "merge": 0, "Diamond": 71},
    )
    assert shown(luigid, adapter, "status_message")["count"] == "7/9 done, 1 running, 1 failed: out of memory"
    assert shown(luigid, adapter, "tracking_url") == everywhere("http://127.0.0.1/runs/it")
    assert {step: sorted(deps) for step, deps in shown(luigid, adapter, "deps").items()} == {
        step: sorted(deps) for step, deps in before.items()
    }
    assert shown(luigid, adapter, "params")["count"]["settings"] == "depth=7"


def test_a_finished_run_is_done(luigid: str, drivers: Make, progress: Make, shown: Make) -> None:
    adapter = drivers(luigid).adapter("02C")
    adapter.submit_all()
    adapter.progressed(progress())
    adapter.ended(Outcome(run_ids=["02C"], progress=progress(**{step: {"done": 4} for step in STEPS}), failed=[]))
    adapter.close()
    assert shown(luigid, adapter, "status") == everywhere("DONE")
    assert shown(luigid, adapter, "progress_percentage") == everywhere(100)


def test_a_failure_is_failed_and_says_why(
    luigid: str, drivers: Make, progress: Make, shown: Make, rpc: Make, eventually: Make
) -> None:
    adapter = drivers(luigid).adapter("02D")
    adapter.submit_all()
    counts = progress(
        trim={"done": 4}, count={"done": 3, "failed": {EndReason.OUT_OF_MEMORY: 1}}, sort={"done": 4}, merge={"done": 4}
    )
    adapter.progressed(counts)
    eventually(lambda: shown(luigid, adapter, "status")["count"], "FAILED")
    cell = FailedCell(step="count", sample="NA12878", reason=EndReason.OUT_OF_MEMORY, message="It needed 9 GiB.")
    adapter.ended(Outcome(run_ids=["02D"], progress=counts, failed=[cell]))
    adapter.close()
    assert shown(luigid, adapter, "status") == {**everywhere("DONE"), "count": "FAILED", "Diamond": "FAILED"}
    error = json.loads(rpc(luigid, "fetch_error", task_id=adapter.task_ids["count"])["error"])
    assert "NA12878: out of memory: It needed 9 GiB." in error


def test_a_failed_step_that_is_retried_runs_again(
    luigid: str, drivers: Make, progress: Make, shown: Make, eventually: Make
) -> None:
    driver = drivers(luigid)
    adapter = driver.adapter("02E")
    adapter.submit_all()
    adapter.progressed(progress(trim={"failed": {EndReason.OUT_OF_MEMORY: 1}}))
    eventually(lambda: shown(luigid, adapter, "status")["trim"], "FAILED")
    driver.submit("trim")
    adapter.progressed(progress(trim={"running": 1}))
    eventually(lambda: shown(luigid, adapter, "status")["trim"], "RUNNING")
    assert driver.calls == [*STEPS, "trim"]


def test_a_failing_submission_shows_as_failed(luigid: str, drivers: Make, shown: Make) -> None:
    driver = drivers(luigid)
    driver.failing["count"] = BackendFailed("The queue is disabled.")
    adapter = driver.adapter("02F")
    with pytest.raises(BackendFailed, match="queue is disabled"):
        adapter.submit_all()
    assert shown(luigid, adapter, "status")["count"] == "FAILED"


@pytest.mark.parametrize("run_ids", [("02G", "02H"), ("02GG", "02GG")], ids=["a new run", "the same run"])
def test_a_rerun_of_deleted_results_within_the_cooldown_really_runs(
    luigid: str, drivers: Make, run_ids: tuple[str, str]
) -> None:
    for run_id in run_ids:
        driver = drivers(luigid)
        driver.adapter(run_id).submit_all()
        assert driver.calls == STEPS


def test_a_driver_that_adopts_the_run_of_one_that_died_is_not_refused(
    luigid: str, drivers: Make, progress: Make, shown: Make, eventually: Make
) -> None:
    dead = drivers(luigid)
    dead.failing["sort"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        dead.adapter("02I").submit_all()
    adopting = drivers(luigid)
    adopting.records = dead.records
    adapter = adopting.adapter("02I")
    adapter.submit_all()
    assert (dead.calls, adopting.calls) == (["trim", "count"], ["sort", "merge"])
    adapter.progressed(progress())
    eventually(lambda: shown(luigid, adapter, "status"), everywhere("RUNNING"))


@pytest.mark.parametrize("held", ["RUNNING", "DONE"])
def test_a_refused_step_is_an_error(luigid: str, drivers: Make, rpc: Make, held: str) -> None:
    driver = drivers(luigid)
    adapter = driver.adapter(f"02J{held}")
    other = {"worker": "somebody else", "family": "count", "params": {}, "task_id": adapter.task_ids["count"]}
    rpc(luigid, "add_task", status=held, **other)
    with pytest.raises(RunConflict, match=rf"count \(which it holds as {held}\).*not queued"):
        adapter.submit_all()
    assert "count" not in driver.calls


def test_a_paused_scheduler_is_an_error(luigid: str, drivers: Make, rpc: Make) -> None:
    driver = drivers(luigid)
    rpc(luigid, "pause")
    try:
        with pytest.raises(RunConflict, match=r"paused.*Resume"):
            driver.adapter("02K").submit_all()
    finally:
        rpc(luigid, "unpause")
    assert driver.calls == []


def test_a_detached_runs_tasks_say_that_the_jobs_go_on(luigid: str, drivers: Make, progress: Make, shown: Make) -> None:
    adapter = drivers(luigid).adapter("02L")
    adapter.submit_all()
    adapter.ended(Outcome(run_ids=["02L"], progress=progress(), failed=[], detached=True))
    adapter.close()
    assert shown(luigid, adapter, "status") == everywhere("DONE")
    assert all("the jobs go on" in line for line in shown(luigid, adapter, "status_message").values())


def test_a_driver_that_ends_without_a_word_leaves_no_success(
    luigid: str, drivers: Make, progress: Make, shown: Make
) -> None:
    adapter = drivers(luigid).adapter("02M")
    adapter.submit_all()
    adapter.progressed(progress(trim={"done": 4}))
    adapter.close()
    assert shown(luigid, adapter, "status") == {**everywhere("FAILED"), "trim": "DONE"}


def test_a_step_with_nothing_to_submit_is_known_too(luigid: str, drivers: Make, shown: Make, eventually: Make) -> None:
    driver = drivers(luigid)
    driver.records |= {"trim", "count", "sort"}
    adapter = driver.adapter("02N")
    adapter.submit_all()
    eventually(lambda: shown(luigid, adapter, "status_message")["trim"], "nothing to submit")
    assert shown(luigid, adapter, "deps")["count"] == [adapter.task_ids["trim"]]


def test_a_scheduler_that_lost_its_memory_is_told_everything_again(
    tmp_path: Path,
    port: int,
    drivers: Make,
    progress: Make,
    shown: Make,
    eventually: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduler, "BEAT_SECONDS", 0.1)
    url, _ = daemon.start(port=port, state_folder=tmp_path)
    try:
        adapter = drivers(url).adapter("02O")
        adapter.submit_all()
        counts = progress(count={"done": 1, "running": 2, "failed": {EndReason.TIMEOUT: 1}}, sort={"done": 4})
        adapter.progressed(counts)
        expected = {**everywhere("RUNNING"), "sort": "DONE"}
        eventually(lambda: shown(url, adapter, "status"), expected)
        pid = int((tmp_path / "luigid.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        adapter.progressed(counts)  # nobody listens: it neither raises nor waits
        daemon.start(port=port, state_folder=tmp_path)
        eventually(lambda: shown(url, adapter, "status"), expected)
        assert shown(url, adapter, "status_message")["count"] == counts["count"].line
        assert adapter.task_ids["trim"] in shown(url, adapter, "deps")["count"]
    finally:
        daemon.stop(tmp_path)


def test_a_scheduler_that_dies_while_submitting_is_a_clear_error(tmp_path: Path, port: int, drivers: Make) -> None:
    url, _ = daemon.start(port=port, state_folder=tmp_path)
    driver = drivers(url)
    adapter = driver.adapter("02P")
    assert daemon.stop(tmp_path)
    with pytest.raises(BackendFailed, match="went away while the steps were submitted"):
        adapter.submit_all()
    assert driver.calls == []


WATCHER = """
import sys
sys.path[:0] = [{root!r}, {here!r}]
import conftest
from batch_pipeline.luigi_adapter import scheduler
from batch_pipeline.records.events import StepProgress
scheduler.BEAT_SECONDS = 0.2
adapter = conftest.Driver({url!r}).adapter("02Q")
adapter.submit_all()
adapter.progressed({{step: StepProgress(step=step, running=1) for step in conftest.STEPS}})
print(*adapter.task_ids.values(), flush=True)
input()
"""


def test_a_driver_is_alive_while_it_watches_and_found_out_when_it_is_killed(
    tmp_path: Path, port: int, rpc: Make, eventually: Make
) -> None:
    (tmp_path / "luigi.cfg").write_text("[scheduler]\nworker_disconnect_delay = 1\n")
    url, _ = daemon.start(port=port, state_folder=tmp_path)
    code = WATCHER.format(root=str(Path(__file__).parents[2]), here=str(Path(__file__).parent), url=url)
    try:
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as watcher:
            assert watcher.stdout is not None
            ids = watcher.stdout.readline().decode().split()

            def seconds_watched() -> float:
                (worker,) = rpc(url, "worker_list")
                return float(worker["last_active"] - worker["started"])

            def statuses() -> set[str]:
                return {rpc(url, "dep_graph", task_id=id)[id]["status"] for id in ids}

            eventually(statuses, {"RUNNING"})
            eventually(lambda: seconds_watched() > 3, True)
            assert statuses() == {"RUNNING"}
            watcher.kill()
            eventually(statuses, {"FAILED"})
    finally:
        daemon.stop(tmp_path)


def test_the_last_statuses_get_a_second_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def call(url: str, method: str, **arguments: Any) -> dict[str, str]:
        calls.append(method)
        if len(calls) == 1:
            raise ConnectionError("just restarted")
        return {"statusMessage": ""}

    monkeypatch.setattr(scheduler, "call", call)
    monkeypatch.setattr(scheduler, "_RETRY_SECONDS", 0.0)
    reporter = scheduler.Reporter(url="", worker_id="it", tasks={"trim": {"task_id": "trim"}})
    reporter.start()
    reporter.report({"trim": LuigiTaskStatus(status="DONE")}, is_last=True)
    assert calls[:4] == ["ping", "ping", "add_worker", "add_task"]
