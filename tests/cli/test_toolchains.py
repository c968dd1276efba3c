"""Two environments of one user and one embedded Batch: each run has the tools, interpreter and umask of its command."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sysconfig
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.localbatch.client import find, stop
from batch_pipeline.localbatch.endpoint import Endpoint
from tests.cli.prompt import ROOT, started

pytestmark = pytest.mark.engine

SCRIPT = """#!/bin/sh
tool > which.txt
"""
PIPELINE = '''
"""A class and a script, each with a tool from the PATH, for tests."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from batch_pipeline import Input, Job, Output, Param, Step, WorkflowTask


class Inside(Step):
    """Tells by what it is run."""

    memory_mb = 32
    tools = ("tool",)
    text = Input()
    told = Output("told.json")
    kept = Output("kept.txt")
    hold: str = Param("", help="A file; the step ends when it is there.")

    def run(self, job: Job) -> None:
        import whose

        told = {
            "prefix": sys.prefix,
            "module": whose.NAME,
            "tool": subprocess.run(["tool"], capture_output=True, text=True, check=True).stdout.strip(),
            "environment": dict(os.environ),
        }
        job.output("told").write_text(json.dumps(told))
        # As tools do that write beside and rename: a file of its owner's alone.
        descriptor, name = tempfile.mkstemp(dir=".")
        os.close(descriptor)
        os.rename(name, job.output("kept"))
        Path(self.hold + ".began").touch() if self.hold else None
        while self.hold and not Path(self.hold).exists():
            time.sleep(0.02)


class Outside(Step):
    """The same as a script."""

    memory_mb = 32
    script = "outside.sh"
    text = Input()
    which = Output("which.txt")


class Two(WorkflowTask):
    """Both."""

    def workflow(self) -> None:
        inside, outside = self.new_task("inside", Inside), self.new_task("outside", Outside)
        inside.in_text = self.source("{sample}.txt")
        outside.in_text = inside.out_told


if __name__ == "__main__":
    Two.main()
'''


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody in an environment, who has a version of a tool and of a module there."""

    name: str
    folder: Path
    python: Path

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "VIRTUAL_ENV": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "MY_API_KEY": "my-secret",
            "BATCH_PIPELINE__EMBEDDED__STATE": str(self.folder.parent / "state"),
            "BATCH_PIPELINE__EMBEDDED__VCPUS": "2",
            "BATCH_PIPELINE__EMBEDDED__IDLE_SECONDS": "60",
            "BATCH_PIPELINE__WATCH__POLL_SECONDS": "0.05",
        }

    def start(self, *words: str, umask: int = 0o022, **changed: str) -> subprocess.Popen[str]:
        environment = {**self.environment(), **changed}
        return started([self.python, "main.py", *words], self.folder.parent, environment, umask)

    def run(self, *words: str, store: str, umask: int = 0o022, code: int = 0, **changed: str) -> str:
        verb = words[:1] if words and not words[0].startswith("-") else ()
        more = ("--sources", "sources", "--sample-list-file", "list.txt") if verb in ((), ("doctor",)) else ()
        process = self.start(*verb, "--store", store, *more, *words[len(verb) :], umask=umask, **changed)
        out, err = process.communicate()
        assert process.returncode == code, out + err
        return out


def make_person(folder: Path, name: str) -> Person:
    """A venv that has what this one has, and a tool and a module of its own."""
    place = folder / name
    venv.EnvBuilder(symlinks=True).create(place)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(place)}))
    (packages / "shared.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    (packages / "whose.py").write_text(f"NAME = {name!r}\n")
    tool = place / "bin" / "tool"
    tool.write_text(f"#!/bin/sh\necho {name}\n")
    tool.chmod(0o755)
    return Person(name=name, folder=place, python=place / "bin" / "python")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Person, Person]]:
    folder = tmp_path_factory.mktemp("people")
    (folder / "main.py").write_text(PIPELINE)
    (folder / "outside.sh").write_text(SCRIPT)
    (folder / "outside.sh").chmod(0o755)
    (folder / "list.txt").write_text("ann\n")
    (folder / "sources").mkdir()
    (folder / "sources" / "ann.txt").write_text("text")
    yield make_person(folder, "one"), make_person(folder, "two")
    stop(folder / "state")


def server(person: Person) -> Endpoint | None:
    return find(person.folder.parent / "state")


def result(person: Person, store: str, step: str, name: str) -> str:
    return (person.folder.parent / store / "results" / step / "ann" / name).read_text()


def told(person: Person, store: str) -> dict[str, Any]:
    return dict(json.loads(result(person, store, "inside", "told.json")))


def assert_is_of(person: Person, store: str) -> None:
    found = told(person, store)
    assert (found["prefix"], found["module"], found["tool"]) == (str(person.folder), person.name, person.name)
    assert found["environment"]["VIRTUAL_ENV"] == str(person.folder)
    assert result(person, store, "outside", "which.txt").strip() == person.name


def test_an_idle_server_runs_each_command_with_its_own_tools_and_interpreter(people: tuple[Person, Person]) -> None:
    one, two = people
    one.run(store="idle-1")
    first = server(one)
    two.run(store="idle-2")
    one.run(store="idle-3")

    assert_is_of(one, "idle-1")
    assert_is_of(two, "idle-2")
    assert_is_of(one, "idle-3")
    assert server(one) == first


def test_a_busy_server_runs_two_commands_side_by_side(people: tuple[Person, Person], tmp_path: Path) -> None:
    one, two = people
    hold = tmp_path / "hold"
    held = one.start("--store", "busy-1", "--sources", "sources", "--sample-list-file", "list.txt", f"--hold={hold}")
    wait_for(tmp_path / "hold.began")

    two.run(store="busy-2", umask=0o077)
    first = server(one)
    hold.touch()
    out, err = held.communicate()

    assert held.returncode == 0, out + err
    assert_is_of(one, "busy-1")
    assert_is_of(two, "busy-2")
    assert server(two) == first
    assert modes(one, "busy-1") == {0o644}
    assert modes(two, "busy-2") == {0o600}


def wait_for(path: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.01)


def modes(person: Person, store: str, *, folders: bool = False) -> set[int]:
    """The rights on everything in a store: files, or folders."""
    found = [path for path in (person.folder.parent / store).rglob("*") if path.is_dir() == folders]
    assert found
    return {stat.S_IMODE(path.lstat().st_mode) for path in found}


def test_a_group_can_read_a_store_made_with_its_umask(people: tuple[Person, Person]) -> None:
    one, _ = people
    one.run(store="group", umask=0o002)
    one.run("--force", store="group", umask=0o002)

    assert modes(one, "group") == {0o664}
    assert modes(one, "group", folders=True) == {0o775}
    assert stat.S_IMODE((one.folder.parent / "state").stat().st_mode) == 0o700


def test_what_a_run_brings_is_recorded_and_holds_no_secret(people: tuple[Person, Person]) -> None:
    one, _ = people
    store = "recorded"
    one.run(
        store=store, REF_PATH="https://me:my-secret@host/%s", PERL5LIB="lib:/perl", JAVA_TOOL_OPTIONS="-Dp=my-secret"
    )

    (record,) = (one.folder.parent / store / "runs").glob("*/run.json")
    brought = json.loads(record.read_text())["toolchain"]
    assert (brought["python"], brought["umask"]) == (str(one.python), "0022")
    assert brought["variables"]["PATH"].startswith(f"{one.folder / 'bin'}:")
    assert brought["variables"]["PERL5LIB"] == f"{one.folder.parent / 'lib'}:/perl"
    environment = told(one, store)["environment"]
    assert environment["PERL5LIB"] == brought["variables"]["PERL5LIB"]
    assert "my-secret" not in json.dumps([environment, brought])
    for path in [*(one.folder.parent / store).rglob("*"), *(one.folder.parent / "state").rglob("*")]:
        assert not path.is_file() or b"my-secret" not in path.read_bytes()


def test_a_job_outlives_its_server_with_its_own_toolchain(people: tuple[Person, Person], tmp_path: Path) -> None:
    """Its first step runs in a worker that the next server adopts; its second is started by that server."""
    one, two = people
    hold = tmp_path / "hold"
    held = one.start("--store", "killed", "--sources", "sources", "--sample-list-file", "list.txt", f"--hold={hold}")
    wait_for(tmp_path / "hold.began")
    first = server(one)
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    two.run(store="other")
    hold.touch()
    out, err = held.communicate()

    assert held.returncode == 0, out + err
    assert server(one) != first
    assert_is_of(one, "killed")
    assert_is_of(two, "other")


def test_doctor_looks_where_jobs_look(people: tuple[Person, Person]) -> None:
    one, two = people
    (one.folder.parent / "doctor").mkdir()
    assert f"ok   tool: tool: {two.folder / 'bin' / 'tool'}" in two.run("doctor", store="doctor")
    assert "BAD  tool: tool: not found" in two.run("doctor", store="doctor", code=1, PATH="/usr/bin:/bin")
