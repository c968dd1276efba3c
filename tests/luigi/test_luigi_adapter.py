"""The adapter without a central scheduler: order, errors, and that nothing of Luigi leaks out."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from batch_pipeline import Input, Output, Step, WorkflowTask
from batch_pipeline.luigi_adapter.submit import LuigiAdapter
from batch_pipeline.wire.errors import BackendFailed, SubmissionRefused
from tests.luigi import conftest

ROOT = Path(__file__).resolve().parents[2]


class SortFirst(WorkflowTask):
    """The same, made in another order."""

    def workflow(self) -> None:
        trim = self.new_task("trim", conftest.Trim)
        sort = self.new_task("sort", conftest.Sort)
        count = self.new_task("count", conftest.Count)
        trim.in_reads = self.source("{sample}.fq")
        count.in_reads = trim.out_trimmed
        sort.in_reads = trim.out_trimmed


def test_submits_each_step_once_in_the_order_of_the_steps(drivers: Callable[..., Any]) -> None:
    driver = drivers()
    driver.adapter("01A").submit_all()
    assert driver.calls == ["trim", "count", "sort", "merge"]


def test_takes_ready_steps_in_the_order_of_the_pipeline(drivers: Callable[..., Any]) -> None:
    driver = drivers()
    driver.adapter("01B", SortFirst).submit_all()
    assert driver.calls == ["trim", "sort", "count"]


def test_submits_only_what_is_not_submitted(drivers: Callable[..., Any]) -> None:
    driver = drivers()
    driver.records |= {"trim", "sort"}
    driver.adapter("01C").submit_all()
    assert driver.calls == ["count", "merge"]


class Prepared(WorkflowTask):
    """A pipeline whose workflow() needs what its __init__ and a method of its own make."""

    def __init__(self) -> None:
        super().__init__()
        self.names = ["first", "second"]

    def chained(self, name: str, source: Any) -> Any:
        task = self.new_task(name, Link)
        task.in_given = source
        return task.out_made

    def workflow(self) -> None:
        source: Any = self.source(column="path")
        for name in self.names:
            source = self.chained(name, source)


class Link(Step):
    given = Input()
    made = Output("made")


def test_the_pipelines_own_methods_and_attributes_are_there(drivers: Callable[..., Any]) -> None:
    driver = drivers()
    driver.adapter("01P", Prepared).submit_all()
    assert driver.calls == ["first", "second"]


def test_the_submissions_own_exception_comes_out_unchanged(drivers: Callable[..., Any]) -> None:
    driver = drivers()
    driver.failing["count"] = refusal = SubmissionRefused("The queue is disabled.")
    with pytest.raises(SubmissionRefused) as raised:
        driver.adapter("01F").submit_all()
    assert raised.value is refusal
    assert "in submit" in "".join(traceback.format_tb(raised.value.__traceback__))
    assert driver.calls == ["trim"], "nothing is submitted after a failure, not even the other branch"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(7)])
def test_an_interrupt_comes_out(drivers: Callable[..., Any], error: BaseException) -> None:
    driver = drivers()
    driver.failing["trim"] = error
    with pytest.raises(type(error)):
        driver.adapter("01G").submit_all()
    assert driver.calls == []


def test_an_exception_of_the_records_comes_out(drivers: Callable[..., Any]) -> None:
    class Broken(set[str]):
        def __contains__(self, step: object) -> bool:
            if driver.calls:
                raise OSError("the records are gone")
            return False

    driver = drivers()
    driver.records = Broken()
    with pytest.raises(OSError, match="the records are gone"):
        driver.adapter("01H").submit_all()
    assert driver.calls == ["trim"]


def test_a_submission_without_a_record_is_an_error(drivers: Callable[..., Any]) -> None:
    driver = drivers()
    driver.submit = driver.calls.append
    with pytest.raises(BackendFailed, match="did not submit count, sort, merge"):
        driver.adapter("01I").submit_all()


def test_log_and_audit_land_in_the_folder(drivers: Callable[..., Any], tmp_path: Path) -> None:
    drivers(log_folder=tmp_path / "luigi").adapter("01J").submit_all()
    log = (tmp_path / "luigi" / "luigi.log").read_text()
    (audit,) = (tmp_path / "luigi").glob("*.audit")
    assert "5 ran successfully" in log
    assert "[count]" in audit.read_text()
    assert "settings: depth=7" in audit.read_text()


CONTAINMENT = """
import logging, os, sys
sys.path[:0] = [{root!r}, {here!r}]
opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
{before}
import conftest
assert not {{"sciluigi", "boto3"}} & set(sys.modules), "sciluigi was imported before it was needed"
names = ("", "luigi", "luigi-interface", "sciluigi-interface")
def loggers():
    return [(list(each.handlers), each.level, each.propagate) for each in map(logging.getLogger, names)]
before = loggers()
driver = conftest.Driver()
adapters = [driver.adapter("01K"), driver.adapter("01KK")]
assert loggers()[1:] != before[1:]
adapters[0].submit_all()
for adapter in adapters:
    adapter.close()
assert driver.calls == list(conftest.STEPS)
assert before == loggers()
assert os.getcwd() == {cwd!r}
import luigi, sciluigi
assert sciluigi.interface.setup_logging.__code__.co_filename == sciluigi.interface.__file__
assert luigi.configuration.get_config().get("core", "rpc_retry_attempts") == "2"
if not {before!r}:
    assert not [path for path in opened if path.endswith((".cfg", ".toml")) and "luigi" in path or "client.cfg" in path]
"""


USERS_IMPORT = "import warnings\nwith warnings.catch_warnings(action='ignore'):\n    import luigi"


@pytest.mark.engine
@pytest.mark.parametrize("before", ["", USERS_IMPORT], ids=["alone", "after the pipeline imported luigi"])
def test_neither_folder_nor_terminal_show_that_luigi_was_there(tmp_path: Path, before: str) -> None:
    folder, temporary = tmp_path / "cwd", tmp_path / "tmp"
    folder.mkdir()
    temporary.mkdir()
    if not before:
        (folder / "luigi.cfg").write_text("this is [no configuration\n")
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONDEVMODE": "1", "LUIGI_CONFIG_PARSER": "cfg"}
    if not before:
        environment |= {"LUIGI_CONFIG_PARSER": "toml", "LUIGI_CONFIG_PATH": str(folder / "luigi.cfg")}
    code = CONTAINMENT.format(root=str(ROOT), here=str(Path(__file__).parent), before=before, cwd=str(folder))
    ended = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert [entry.name for entry in folder.iterdir()] == ([] if before else ["luigi.cfg"])
    assert list(temporary.iterdir()) == []


THREADS = """
import logging, os, sys, threading
sys.path[:0] = [{root!r}, {here!r}]
import conftest
drivers = [conftest.Driver() for _ in range(8)]
started = threading.Barrier(len(drivers))
def submit(number, driver):
    started.wait()
    adapter = driver.adapter(f"01T{{number}}")
    adapter.submit_all()
    adapter.close()
threads = [threading.Thread(target=submit, args=item) for item in enumerate(drivers)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert [driver.calls for driver in drivers] == [list(conftest.STEPS)] * len(drivers)
assert not [name for name in ("luigi", "luigi-interface", "sciluigi-interface") if logging.getLogger(name).handlers]
assert os.getcwd() == {cwd!r}
"""


@pytest.mark.engine
def test_several_threads_may_import_luigi_at_once(tmp_path: Path) -> None:
    code = THREADS.format(root=str(ROOT), here=str(Path(__file__).parent), cwd=str(tmp_path))
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_no_scheduler_is_one_clear_error(drivers: Callable[..., Any], port: int) -> None:
    driver = drivers(f"http://127.0.0.1:{port}")
    with pytest.raises(BackendFailed, match=rf"No Luigi scheduler at http://127\.0\.0\.1:{port}.*main\.py ui"):
        driver.adapter("01L")
    assert driver.calls == []


def test_another_server_is_not_taken_for_a_scheduler(drivers: Callable[..., Any]) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<p>hello</p>")

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(BackendFailed, match="something else"):
            drivers(f"http://127.0.0.1:{server.server_port}").adapter("01M")
        server.shutdown()


def test_an_adapter_is_a_listener_that_says_nothing_without_a_scheduler(
    drivers: Callable[..., Any], progress: Callable[..., Any]
) -> None:
    adapter: LuigiAdapter = drivers().adapter("01N")
    adapter.progressed(progress())
    adapter.close()
    adapter.progressed(progress())
    adapter.close()


def test_what_luigi_does_not_need_is_neither_imported_nor_hidden_afterwards() -> None:
    """Two thirds of its import; a pipeline that has use for S3 targets of Luigi finds them whole."""
    code = """
import sys
from batch_pipeline.luigi_adapter import imports
imports.load()
assert not {"boto3", "jsonschema", "requests"} & set(sys.modules)
import boto3, jsonschema, requests
from luigi.contrib import s3
import luigi.contrib.s3
assert luigi.contrib.s3 is s3
assert s3.TransferConfig
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
