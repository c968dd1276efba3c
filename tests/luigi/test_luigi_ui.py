"""luigid by our hand: it comes up on loopback, is found when it runs, and goes when told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import webbrowser
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from batch_pipeline.cli import run_command_line
from batch_pipeline.luigi_adapter import daemon
from batch_pipeline.luigi_adapter.scheduler import call
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.daemon import write_pid_file
from batch_pipeline.wire.errors import BackendFailed, InvalidConfig
from batch_pipeline.wire.loopback import is_loopback

ROOT = Path(__file__).resolve().parents[2]
REMOTE = ["0.0.0.0", "192.0.2.1", "example.org", "::", ""]


@pytest.mark.parametrize("host", REMOTE)
def test_refuses_to_listen_to_the_world(host: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="no passwords"):
        daemon.start(host, state_folder=tmp_path)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_knows_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.engine
def test_stop_ends_nothing_that_is_no_luigid(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        (tmp_path / "luigid.pid").write_text(f"{other.pid}\n")
        assert not daemon.stop(tmp_path)
        assert other.poll() is None
        assert not daemon.stop(tmp_path), "without a pid file there is nothing to stop"


@pytest.mark.engine
def test_one_that_goes_on_is_not_said_to_be_stopped_and_can_be_stopped_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "STOP_SECONDS", 0)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); input()"
    command = [sys.executable, "-c", deaf]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        write_pid_file(tmp_path / "luigid.pid", process.pid)
        for _ in range(2):
            with pytest.raises(BackendFailed, match=rf"luigid \(process {process.pid}\) goes on"):
                daemon.stop(tmp_path)
        process.kill()
    assert not daemon.stop(tmp_path)


def test_a_port_with_another_server_is_refused_by_name(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.RequestHandlerClass = _Silent
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(BackendFailed, match=r"HTTPError 501.*Choose another port"):
            daemon.start(port=server.server_port, state_folder=tmp_path)
        server.shutdown()
    assert list(tmp_path.iterdir()) == []


class _Silent(BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def ui(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command, with a state folder of its own."""
    monkeypatch.setenv("BATCH_PIPELINE__EMBEDDED__STATE", str(tmp_path / "batch"))
    return lambda *options: run_command_line(None, ["ui", "--port", str(port), *options])


@pytest.mark.engine
def test_starts_once_is_found_again_and_stops(
    ui: Callable[..., int],
    tmp_path: Path,
    port: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setenv("DISPLAY", ":7")
    url = f"http://127.0.0.1:{port}"
    assert ui() == CommandExit.DONE
    try:
        assert call(url, "is_paused") == {"paused": False}
        assert ui("--no-browser") == CommandExit.DONE
        printed = capsys.readouterr()
        assert printed.out == f"{url}\n{url}\n"
        first, hint, second, _ = printed.err.splitlines()
        assert first.startswith(f"luigid runs at {url} (process ")
        assert "`report --watch`" in hint
        assert second == f"luigid already runs at {url}"
        assert opened == [url]
        (pid_file,) = tmp_path.rglob("luigid.pid")
        assert pid_file.parent.stat().st_mode & 0o077 == 0, "its state is unpickled: no other user may write there"
    finally:
        ui("--stop")
    ui("--stop")
    assert capsys.readouterr().out == "luigid was stopped.\nNo luigid was started here.\n"
    with pytest.raises(OSError, match="refused"):
        call(url, "is_paused")


@pytest.mark.engine
def test_without_a_display_no_browser_is_opened(ui: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda _: pytest.fail("a browser was opened"))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert ui() == CommandExit.DONE
    assert ui("--stop") == CommandExit.DONE


@pytest.mark.engine
def test_an_interrupt_while_the_page_opens_ends_it_too(
    ui: Callable[..., int], tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(webbrowser, "open", interrupted)
    monkeypatch.setenv("DISPLAY", ":7")
    assert ui("--foreground") == CommandExit.DONE
    assert not list(tmp_path.rglob("luigid.pid"))
    with pytest.raises(OSError, match="refused"):
        call(f"http://127.0.0.1:{port}", "is_paused")


@pytest.mark.engine
def test_luigid_remembers_across_a_restart(
    tmp_path: Path, port: int, drivers: Callable[..., Any], rpc: Callable[..., Any]
) -> None:
    url, _ = daemon.start(port=port, state_folder=tmp_path)
    adapter = drivers(url).adapter("03A")
    adapter.submit_all()
    daemon.stop(tmp_path)
    daemon.start(port=port, state_folder=tmp_path)
    try:
        assert set(adapter.task_ids.values()) <= set(rpc(url, "task_list"))
    finally:
        daemon.stop(tmp_path)


@pytest.mark.engine
def test_a_luigid_that_does_not_come_up_is_told_in_its_own_words(tmp_path: Path, port: int) -> None:
    (tmp_path / "luigi.cfg").write_text("[scheduler]\nremove_delay = soon\n")
    with pytest.raises(BackendFailed, match=r"(?s)luigid at .* did not start: .*ValueError: .*'remove_delay'"):
        daemon.start(port=port, state_folder=tmp_path)
    assert not (tmp_path / "luigid.pid").exists()


@pytest.mark.engine
def test_in_the_foreground_it_stays_until_it_is_interrupted(
    tmp_path: Path, port: int, eventually: Callable[..., None]
) -> None:
    command = [sys.executable, "-m", "batch_pipeline", "ui", "--port", str(port), "--no-browser", "--foreground"]
    environment = {**os.environ, "BATCH_PIPELINE__EMBEDDED__STATE": str(tmp_path / "batch")}
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        try:
            return bool(call(url, "is_paused"))
        except OSError:
            return False

    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as shown:
        assert shown.stderr is not None
        assert shown.stderr.readline().startswith(b"luigid runs at")
        assert shown.stderr.readline().startswith(b"`report --watch`")
        eventually(up, True)
        os.killpg(shown.pid, signal.SIGINT)
        out, err = shown.communicate(timeout=30)
    assert (shown.returncode, out.decode().strip(), err) == (0, url, b"")
    assert not up()
    assert not list(tmp_path.rglob("luigid.pid"))


@pytest.mark.engine
def test_a_run_that_began_before_luigid_shows_up_with_all_its_steps(
    tmp_path: Path, port: int, drivers: Callable[..., Any], progress: Any, rpc: Any, eventually: Any
) -> None:
    folder = tmp_path / "luigid"
    adapter = drivers(None, luigid_folder=folder).adapter("05A")
    adapter.submit_all()
    adapter.progressed(progress(trim={"done": 9}))
    assert daemon.running_url(folder) is None
    url, _ = daemon.start(port=port, state_folder=folder)
    try:
        assert daemon.running_url(folder) == url
        adapter.progressed(progress(trim={"done": 9}, count={"done": 7, "running": 2}))
        whole = adapter.task_ids["Diamond"]
        eventually(lambda: (rpc(url, "dep_graph", task_id=whole).get(whole) or {}).get("status"), "RUNNING")
        graph = rpc(url, "dep_graph", task_id=whole)
        statuses = {name: graph[task]["status"] for name, task in adapter.task_ids.items()}
        assert statuses == dict.fromkeys(("count", "sort", "merge", "Diamond"), "RUNNING") | {"trim": "DONE"}
        assert adapter.task_ids["trim"] in graph[adapter.task_ids["count"]]["deps"]
    finally:
        adapter.close()
        daemon.stop(folder)
    assert daemon.running_url(folder) is None


@pytest.mark.engine
def test_a_folder_that_others_may_write_to_names_no_luigid(tmp_path: Path, port: int) -> None:
    folder = tmp_path / "luigid"
    daemon.start(port=port, state_folder=folder)
    try:
        folder.chmod(0o777)
        assert daemon.running_url(folder) is None
    finally:
        folder.chmod(0o700)
        daemon.stop(folder)
