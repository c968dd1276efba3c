"""What a step takes, and on what machine it ran."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.container import meter
from batch_pipeline.container.machine import IMDS_VARIABLE, NOWHERE, Machine, machine_of
from batch_pipeline.container.meter import Meter, disk_bytes, memory_bytes, oom_kills
from batch_pipeline.container.run import Signals, spawn
from batch_pipeline.wire.contract import EXECUTION, METADATA
from tests.container.conftest import Workshop

#: Takes memory until somebody has seen it, or long after nobody did.
HOLD = """
import os, time
taken = bytearray(80_000_000)
end = time.monotonic() + 30
while not os.path.exists({seen!r}) and time.monotonic() < end:
    time.sleep(0.01)
"""


def test_the_disk_of_a_folder_is_what_its_files_take(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(os.urandom(100_000))
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "a" / "b" / "file")
    os.truncate(tmp_path / "elsewhere", 1 << 30)
    assert 100_000 <= disk_bytes(str(tmp_path)) < 200_000, "neither the hole nor the link takes any"
    assert disk_bytes(str(tmp_path / "gone")) == 0


def test_a_file_that_is_gone_at_the_end_counts_and_processes_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script goes on when it sees that it was looked at: no fixed time is slept."""
    monkeypatch.setattr(meter, "PAUSE_SECONDS", 0.01)
    work = tmp_path / "work"
    work.mkdir()
    seen = tmp_path / "seen"
    (tmp_path / "hold.py").write_text(HOLD.format(seen=str(seen)))
    script = tmp_path / "script.sh"
    python = f"{sys.executable} {tmp_path}/hold.py"
    script.write_text(f"#!/bin/sh\nhead -c 500000 /dev/urandom > big\n{python} &\n{python} &\nwait\nrm big\n")
    script.chmod(0o755)

    class Watcher(Meter):
        def look(self, leader: int = 0) -> None:
            super().look(leader)
            if self.peak_disk_bytes >= 500_000 and self.peak_memory_bytes >= 160_000_000:
                seen.touch()

    with Signals() as signals:
        signals.meter = Watcher(str(work))
        ended = spawn([str(script)], dict(os.environ), work, signals)

    assert ended.code == 0
    assert signals.meter.peak_disk_bytes >= 500_000
    assert signals.meter.peak_memory_bytes >= 160_000_000
    assert not list(work.iterdir())


V2 = "low 0\nhigh 0\nmax 7\noom 3\noom_kill {}\noom_group_kill 0\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"


@pytest.mark.parametrize(
    ("own", "folder", "name", "text"),
    [
        ("0::/user.slice/a\n", "user.slice/a", "memory.events", V2),
        ("0::/\n", "", "memory.events", V2),
        ("0::/ecs/the/host's/path\n", "", "memory.events", V2),
        ("4:cpu,memory:/docker/abc\n1:name=systemd:/\n0::/\n", "memory/docker/abc", "memory.oom_control", V1),
        ("4:memory:/docker/abc\n0::/\n", "memory", "memory.oom_control", V1),
    ],
)
def test_the_kernels_own_count_is_read_whatever_the_cgroups(
    tmp_path: Path, cgroups: Path, own: str, folder: str, name: str, text: str
) -> None:
    (tmp_path / "cgroup").write_text(own)
    group = cgroups / folder
    group.mkdir(parents=True, exist_ok=True)
    (group / name).write_text(text.format(2))
    (group / "cgroup.procs").write_text(f"1\n{os.getpid()}\n")
    watched = Meter(str(tmp_path))
    assert oom_kills() == 2
    assert watched.oom_killed is False
    (group / name).write_text(text.format(3))
    assert watched.oom_killed is True
    (group / name).unlink()
    assert watched.oom_killed is None


def test_a_count_of_other_processes_is_none(tmp_path: Path, cgroups: Path) -> None:
    (tmp_path / "cgroup").write_text("4:memory:/docker/abc\n")
    (cgroups / "memory").mkdir(parents=True)
    (cgroups / "memory/memory.oom_control").write_text(V1.format(2))
    (cgroups / "memory/cgroup.procs").write_text("1\n")
    assert oom_kills() is None
    assert Meter(str(tmp_path)).oom_killed is None


def test_where_the_kernel_says_nothing_nothing_is_known(tmp_path: Path, cgroups: Path) -> None:
    assert oom_kills() is None
    assert Meter(str(tmp_path)).oom_killed is None


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for cgroups; `cgroup` beside it tells which ones are ours."""
    monkeypatch.setattr(meter, "_CGROUPS", str(tmp_path / "fs"))
    monkeypatch.setattr(meter, "_OWN_CGROUPS", str(tmp_path / "cgroup"))
    meter._counter.cache_clear()
    yield tmp_path / "fs"
    meter._counter.cache_clear()


def test_one_process_alone_is_left_to_the_kernel() -> None:
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        assert memory_bytes(process.pid) == 0
    finally:
        process.kill()
        process.wait()


# The machine.


class Services(http.server.BaseHTTPRequestHandler):
    """ECS's and EC2's metadata services."""

    asked: list[str]
    answers: dict[str, str]

    def _answer(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        text = self.answers.get(self.path)
        if self.path.startswith("/latest/meta-data/") and self.headers.get("X-aws-ec2-metadata-token") != "token":
            text = None
        body = (text or "").encode()
        self.send_response(401 if text is None else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def services() -> Iterator[tuple[str, type[Services]]]:
    handler = type("Handler", (Services,), {"asked": [], "answers": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()
        thread.join()


def test_anywhere_but_on_aws_nothing_is_asked_or_imported() -> None:
    assert machine_of({"AWS_BATCH_JOB_ID": "x", "AWS_REGION": "eu-west-1"}) is NOWHERE
    code = (
        "import sys; import batch_pipeline.container.cell; print('http.client' in sys.modules, 'json' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split()[0] == "False"


def test_an_instance_tells_its_type_zone_and_purchase(services: tuple[str, type[Services]]) -> None:
    url, handler = services
    handler.answers |= {
        "/v4/x/task": json.dumps({"LaunchType": "EC2", "AvailabilityZone": "eu-west-1b"}),
        "/latest/api/token": "token",
        "/latest/meta-data/instance-type": "m5.xlarge\n",
        "/latest/meta-data/instance-life-cycle": "spot",
    }
    environment = {METADATA: f"{url}/v4/x", EXECUTION: "AWS_ECS_EC2", IMDS_VARIABLE: url}
    assert machine_of(environment) == Machine(
        instance_type="m5.xlarge", availability_zone="eu-west-1b", purchase="spot"
    )
    assert "PUT /latest/api/token" in handler.asked


def test_fargate_has_no_instance_to_ask(services: tuple[str, type[Services]]) -> None:
    url, handler = services
    handler.answers["/v4/x/task"] = json.dumps({"LaunchType": "FARGATE", "AvailabilityZone": "eu-west-1c"})
    environment = {METADATA: f"{url}/v4/x", EXECUTION: "AWS_ECS_FARGATE", IMDS_VARIABLE: url}
    assert machine_of(environment) == Machine(instance_type="fargate", availability_zone="eu-west-1c")
    assert handler.asked == ["GET /v4/x/task"]


@pytest.mark.parametrize("told", ["", "no json", "[1]"])
def test_services_that_refuse_or_talk_nonsense_are_left_open(services: tuple[str, type[Services]], told: str) -> None:
    url, handler = services
    handler.answers["/v4/x/task"] = told
    assert machine_of({METADATA: f"{url}/v4/x", EXECUTION: "AWS_ECS_EC2", IMDS_VARIABLE: url}) == NOWHERE
    assert machine_of({METADATA: "http://127.0.0.1:1/v4/x", IMDS_VARIABLE: "http://127.0.0.1:1"}) == NOWHERE


# What a cell's record says.


def test_a_receipt_tells_what_was_taken_and_had_and_where(
    workshop: Workshop, services: tuple[str, type[Services]]
) -> None:
    url, handler = services
    handler.answers |= {
        "/v4/x/task": json.dumps({"LaunchType": "EC2", "AvailabilityZone": "eu-west-1b"}),
        "/latest/api/token": "token",
        "/latest/meta-data/instance-type": "c6i.large",
        "/latest/meta-data/instance-life-cycle": "on-demand",
    }
    aws = {METADATA: f"{url}/v4/x", EXECUTION: "AWS_ECS_EC2", IMDS_VARIABLE: url}
    environment = workshop.script('#!/bin/sh\nhead -c 300000 /dev/urandom > kept\ncp "$INPUT_X" "$OUTPUT_DIR/y"\n')
    for life in range(2):
        again = environment | aws | {"AWS_BATCH_JOB_ID": f"job-{life}"}
        assert workshop.live(again) == 0, workshop.log
    receipt = workshop.receipt()
    assert receipt
    assert (receipt.instance_type, receipt.availability_zone, receipt.purchase) == (
        "c6i.large",
        "eu-west-1b",
        "on-demand",
    )
    assert receipt.usage.peak_disk_bytes >= 300_000
    assert receipt.cpus > 0 < receipt.memory_mb
    assert handler.asked.count("PUT /latest/api/token") == 1, "a process is asked about once"


def test_a_failure_tells_it_too_and_nothing_of_a_machine_that_is_not_awss(workshop: Workshop) -> None:
    environment = workshop.script("#!/bin/sh\nhead -c 300000 /dev/urandom > kept\nexit 3\n")
    assert workshop.live(environment) == 3
    failure = workshop.failure()
    assert failure
    assert failure.usage.peak_disk_bytes >= 300_000
    assert failure.usage.peak_memory_bytes > 0 < failure.memory_mb
    assert (failure.instance_type, failure.availability_zone, failure.purchase) == ("", "", "")
