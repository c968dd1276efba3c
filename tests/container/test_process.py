"""One life as a process: the log is a pipe, and signals come from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batch_pipeline.container.logger import without_log_lines
from batch_pipeline.wire.processes import identity_of

if TYPE_CHECKING:
    from tests.container.conftest import Workshop

pytestmark = pytest.mark.engine

#: As `python -m batch_pipeline.container`, with a grace of half a second.
IMPATIENT = "import os, sys; from batch_pipeline.container.entry import run_child; "
IMPATIENT += "sys.exit(run_child(dict(os.environ), sys.argv[1:], {}, grace_seconds=0.5))"


def wait_for(process: subprocess.Popen[bytes], word: bytes) -> None:
    """Reads the log until it has a line with the word."""
    assert process.stdout
    for line in process.stdout:
        if word in line:
            return
    pytest.fail(f"{word!r} never came")


def impatient(workshop: Workshop, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", IMPATIENT]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=workshop.root
    )


def test_the_log_goes_to_the_pipe_and_to_the_store(folder_workshop: Workshop) -> None:
    script = '#!/bin/sh\necho out; echo err >&2; printf "\\377\\000\\n"; cp "$INPUT_X" y\n'
    process = folder_workshop.start(folder_workshop.script(script))
    out, _ = process.communicate()
    assert process.returncode == 0, out
    assert without_log_lines(out) == b"out\nerr\n\xff\0\n"
    # The receipt comes after the log.
    assert out.startswith(folder_workshop.stored_log())
    assert out[len(folder_workshop.stored_log()) :].count(b"\n") == 1
    assert folder_workshop.left_in_scratch() == []


@pytest.mark.parametrize(("umask", "file", "folder"), [("0002", 0o664, 0o775), ("0077", 0o600, 0o700)])
def test_what_is_published_has_the_rights_that_the_umask_leaves_and_scratch_has_none(
    folder_workshop: Workshop, umask: str, file: int, folder: int
) -> None:
    """The output was made as tools do that write a temporary file and rename it."""
    script = (
        '#!/bin/sh\nstat -c %a "$PWD/../.." "$PWD/.." . "$(dirname "$INPUT_X")"; kept=$(mktemp -p .); mv "$kept" y\n'
    )
    environment = folder_workshop.script(script)
    before = set(folder_workshop.root.rglob("*"))
    scratch = str(folder_workshop.scratch / "deep")
    more = {"BATCH_PIPELINE_UMASK": umask, "BATCH_PIPELINE_SCRATCH": scratch, "BATCH_PIPELINE_CACHE": scratch}
    process = folder_workshop.start({**environment, **more})
    out, _ = process.communicate()
    assert process.returncode == 0, out
    assert without_log_lines(out).decode().split() == ["700"] * 4
    for path in set(folder_workshop.root.rglob("*")) - before:
        if not path.is_relative_to(folder_workshop.scratch):
            assert path.stat().st_mode & 0o777 == (folder if path.is_dir() else file), path
        elif path.is_dir():
            assert path.stat().st_mode & 0o777 == 0o700, path


def test_a_python_steps_words_and_its_tools_words_keep_their_order(folder_workshop: Workshop) -> None:
    body = """
class S(Step):
    y = Output("y")
    def run(self, job):
        import sh
        for i in range(3):
            print("step", i)
            sh.sh("-c", f"echo tool {i}", _out=sys.stdout)
            os.system(f"echo system {i}")
        job.output("y").touch()
"""
    process = folder_workshop.start(folder_workshop.python(body))
    out, _ = process.communicate()
    assert without_log_lines(out).decode().splitlines() == [
        f"{who} {i}" for i in range(3) for who in ("step", "tool", "system")
    ]


def test_our_own_words_are_in_both_logs(folder_workshop: Workshop) -> None:
    process = folder_workshop.start(folder_workshop.script("#!/bin/sh\necho bad; exit 3\n"))
    out, _ = process.communicate()
    assert process.returncode == 3
    assert without_log_lines(out) == b"bad\ncopy of s1 failed: step.sh ended with exit code 3: bad\n"
    assert folder_workshop.stored_log() == out


def test_fifty_megabytes_pass(folder_workshop: Workshop) -> None:
    script = '#!/bin/sh\nyes 0123456789abcdef | head -c 49999999; echo\ncp "$INPUT_X" y\n'
    process = folder_workshop.start(folder_workshop.script(script))
    out, _ = process.communicate()
    assert process.returncode == 0
    assert len(without_log_lines(out)) == len(folder_workshop.printed()) == 50_000_000


def test_a_closed_pipe_stops_nothing(folder_workshop: Workshop) -> None:
    script = '#!/bin/sh\nfor i in 1 2 3 4 5 6; do seq 1 20000; done\ncp "$INPUT_X" y\n'
    process = folder_workshop.start(folder_workshop.script(script))
    assert process.stdout
    process.stdout.close()
    assert process.wait() == 0
    assert folder_workshop.result() == b"data\n"


def test_a_daemon_that_keeps_the_pipe_is_ended_and_not_waited_for(folder_workshop: Workshop) -> None:
    script = """#!/bin/sh
setsid sh -c 'echo $$ > part; mv part y; while :; do echo noise; done' &
while ! test -s y; do sleep 0.01; done
"""
    process = folder_workshop.start(folder_workshop.script(script))
    out, _ = process.communicate()
    assert process.returncode == 0, out[-300:]
    assert folder_workshop.receipt()
    assert identity_of(int(folder_workshop.result())) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_step_and_ends_with_75(folder_workshop: Workshop, number: signal.Signals) -> None:
    script = """#!/bin/sh
trap 'echo got it; exit 0' TERM INT HUP
cp "$INPUT_X" y
echo ready
while :; do sleep 0.05; done
"""
    process = folder_workshop.start(folder_workshop.script(script))
    wait_for(process, b"ready")
    process.send_signal(number)
    out, _ = process.communicate()
    assert process.returncode == 75
    assert b"got it" in out
    failure = folder_workshop.failure()
    assert failure
    assert (failure.end_reason, failure.exit_code) == ("interrupted", 75)
    assert number.name in failure.message
    assert b"got it" in folder_workshop.stored_log()
    assert folder_workshop.receipt() is None
    assert folder_workshop.left_in_scratch() == []


def test_a_signal_ends_a_python_step_and_its_tool(folder_workshop: Workshop) -> None:
    body = """
class S(Step):
    y = Output("y")
    def run(self, job):
        import sh
        sh.sh("-c", "echo tool $$; exec sleep 1000", _out=sys.stdout)
"""
    from tests.container.conftest import ends

    process = folder_workshop.start(folder_workshop.python(body))
    assert process.stdout
    tool = int(next(line for line in process.stdout if line.startswith(b"tool")).split()[1])
    process.terminate()
    process.communicate()
    assert process.returncode == 75
    assert ends(tool)


@pytest.mark.parametrize("kind", ["script", "python"])
def test_a_step_that_ignores_signals_is_killed_after_the_grace(folder_workshop: Workshop, kind: str) -> None:
    if kind == "script":
        environment = folder_workshop.script("#!/bin/sh\ntrap '' TERM\necho ready\nwhile :; do sleep 0.05; done\n")
    else:
        environment = folder_workshop.python("""
class S(Step):
    def run(self, job):
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("ready")
        while True: time.sleep(0.05)
""")
    process = impatient(folder_workshop, environment)
    wait_for(process, b"ready")
    process.terminate()
    process.communicate()
    assert process.returncode == 75
    failure = folder_workshop.failure()
    assert failure
    assert failure.end_reason == "interrupted"


def test_a_signal_during_staging_ends_it_at_once(folder_workshop: Workshop) -> None:
    # A reference that somebody else is downloading for ever: staging waits for the lock.
    code = """
import os, sys, signal, threading
from batch_pipeline.container import stage
from batch_pipeline.container.entry import run_child
def wait_for_ever(self):
    print("staging", flush=True)
    while True: signal.pause()
stage.Stager.stage = wait_for_ever
sys.exit(run_child(dict(os.environ), [], {}))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=folder_workshop.script(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder_workshop.root,
    )
    wait_for(process, b"staging")
    process.terminate()
    process.communicate()
    assert process.returncode == 75
    failure = folder_workshop.failure()
    assert failure
    assert failure.end_reason == "interrupted"
    assert folder_workshop.left_in_scratch() == []


@pytest.mark.parametrize(("after", "code"), [(0, 75), (1, 75), (2, 0)])
def test_a_signal_while_publishing_leaves_a_receipt_of_all_or_none(
    folder_workshop: Workshop, after: int, code: int
) -> None:
    from batch_pipeline.wire.manifest import OutputSpec

    outputs = (OutputSpec(port="y", files=("y1", "y2")),)
    environment = folder_workshop.script('#!/bin/sh\ncp "$INPUT_X" y1; cp y1 y2\n', outputs=outputs)
    program = f"""
import os, sys, signal
from batch_pipeline.container import files
from batch_pipeline.container.entry import run_child
publish, calls = files.FolderFiles.publish, []
def signalled(self, path, key, *, move):
    publish(self, path, key, move=move)
    calls.append(key)
    if len(calls) == {after}: os.kill(os.getpid(), signal.SIGTERM)
delete = files.FolderFiles.versions_in
def first(self, prefix):
    if {after} == 0: os.kill(os.getpid(), signal.SIGTERM)
    return delete(self, prefix)
files.FolderFiles.publish, files.FolderFiles.versions_in = signalled, first
sys.exit(run_child(dict(os.environ), [], {{}}))
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment, cwd=folder_workshop.root)
    assert done.returncode == code
    receipt, failure = folder_workshop.receipt(), folder_workshop.failure()
    assert (receipt is None) == (code == 75) == (failure is not None)
    if receipt:
        assert [folder_workshop.store.get(record.key) for record in receipt.outputs] == [b"data\n"] * 2


def test_a_signal_reaches_a_fetched_script(folder_workshop: Workshop) -> None:
    folder_workshop.store.put("x.sh", b"#!/bin/sh\ntrap 'exit 9' TERM\necho ready\nwhile :; do sleep 0.05; done\n")
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "BATCH_FILE_TYPE": "script",
        "BATCH_FILE_S3_URL": f"{folder_workshop.store.url}/x.sh",
        "BATCH_PIPELINE_SCRATCH": str(folder_workshop.scratch),
    }
    process = folder_workshop.start(environment, "name")
    wait_for(process, b"ready")
    process.terminate()
    process.communicate()
    assert process.returncode == 9
    assert folder_workshop.left_in_scratch() == []


def test_a_signal_that_was_ignored_stays_ignored(folder_workshop: Workshop) -> None:
    code = """
import os, sys, signal
from batch_pipeline.container.entry import run_child
signal.signal(signal.SIGHUP, signal.SIG_IGN)
code = run_child(dict(os.environ), [], {})
sys.exit(code or int(signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN))
"""
    script = '#!/bin/sh\nkill -HUP $PPID\ngrep SigIgn /proc/$$/status\ncp "$INPUT_X" y\n'
    done = subprocess.run([sys.executable, "-c", code], env=folder_workshop.script(script), capture_output=True)
    assert done.returncode == 0, done
    ignored = int(without_log_lines(done.stdout).split()[1], 16)
    # SIGHUP still is; SIGPIPE and SIGXFSZ, which Python ignores, are not.
    assert ignored & 1
    assert not ignored & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1))
