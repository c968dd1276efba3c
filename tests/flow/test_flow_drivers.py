"""Commands that leave, come back, meet each other or are interrupted, on the real engine."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.flow.lab import ALL, PATIENCE, SAMPLES, Lab, until

pytestmark = pytest.mark.engine


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def is_submitted(lab: Lab) -> bool:
    """Whether some run has sent all of its jobs."""
    return len(list((lab.store / "runs").glob("*/submissions/*/sent.json"))) >= 3


def is_through(lab: Lab) -> bool:
    """Whether the jobs are all sent and the driver lets others submit."""
    holders = list((lab.store / "driver").glob("*.json"))
    return is_submitted(lab) and any('"released": true' in path.read_text() for path in holders)


def test_detach_ends_when_everything_is_queued(lab: Lab, gate: Path) -> None:
    ran = lab.run("--detach")

    assert "go on by themselves" in ran.out
    assert lab.receipts() == {}
    assert lab.live() == lab.runs()


def test_a_detached_run_is_shown_followed_and_closed_by_others(lab: Lab, gate: Path) -> None:
    lab.run("--detach")

    told = lab.json("status")
    assert told["live_runs"] == lab.runs()
    assert [step["total"] for step in told["steps"]] == [3, 3, 1]
    gate.touch()
    lab.run("status", "--watch")

    assert set(lab.receipts()) == ALL
    assert lab.live() == []
    assert [run["failed"] for run in lab.json("runs")] == [0]


def test_the_same_command_adopts_a_detached_run_and_submits_nothing(lab: Lab, gate: Path) -> None:
    lab.run("--detach")
    gate.touch()

    ran = lab.run()

    assert ran.calls["SubmitJob"] == 0
    assert len(lab.runs()) == 1
    assert set(lab.receipts()) == ALL


def test_new_samples_are_submitted_beside_a_live_run_and_the_gather_waits_for_both(lab: Lab, gate: Path) -> None:
    """The live gather was to be of three samples; it is another cell than the one of four, so that waits."""
    lab.run("--only-step", "lower", "--detach")
    lab.samples(*SAMPLES, "dan")
    lab.run("--detach")

    assert ("lower", "dan") in lab.sent()
    assert not {("lower", sample) for sample in SAMPLES} & lab.sent()
    gate.touch()
    lab.run()

    assert set(lab.receipts()) == {*ALL, ("lower", "dan"), ("words", "dan")}
    assert (lab.store / "cohort/count/words.tsv").read_text().endswith("dan\t4\ntotal\t22\n")


def test_live_jobs_that_make_a_cell_differently_are_a_conflict(lab: Lab, gate: Path) -> None:
    lab.run("--detach")

    ran = lab.run("--shortest", "3", code=3)

    assert "is still working on words of sample ann" in ran.err
    assert f"cancel {lab.runs()[0]}" in ran.err
    assert len(lab.runs()) == 1


def test_cancel_ends_live_jobs_and_the_next_command_does_the_rest(lab: Lab, gate: Path) -> None:
    lab.run("--detach")

    told = lab.run("cancel", "--yes").out

    assert " of 3 jobs." in told
    until(lambda: not lab.json("status", code=None)["live_runs"], "the jobs have ended")
    gate.touch()
    lab.run()
    assert set(lab.receipts()) == ALL
    assert "Nothing to cancel" in lab.run("cancel", "--yes").out


def test_cancel_keeps_what_is_done(lab: Lab, gate: Path) -> None:
    lab.text("ann", "Free words\n")
    lab.run("--detach")
    until(lambda: ("words", "ann") in lab.receipts(), "ann is done")

    lab.run("cancel", "--yes")
    until(lambda: not lab.json("status", code=None)["live_runs"], "the jobs have ended")
    gate.touch()
    lab.run()

    assert lab.sent() == ALL - {("lower", "ann"), ("words", "ann")}


def test_two_commands_at_once_make_every_cell_once(lab: Lab) -> None:
    """One submits; the other follows it, or is told who does."""
    both = [lab.start() for _ in range(2)]
    ends = [ended(process) for process in both]

    codes = sorted(code for code, _, _ in ends)
    assert codes in ([0, 0], [0, 3]), ends
    for code, _, err in ends:
        assert code == 0 or "Another driver" in err
    assert set(lab.receipts()) == ALL
    sent = [lab.sent(run_id) for run_id in lab.runs()]
    assert sum(map(len, sent)) == len(ALL)
    assert "Nothing to do" in lab.run().out


def test_a_second_command_meets_the_first_one_submitting(lab: Lab, gate: Path) -> None:
    """The first is stopped in the middle of its submissions, and goes on afterwards."""
    first = lab.start()
    until(lambda: list((lab.store / "runs").glob("*/submissions/*/intent.json")), "the first one submits")
    first.send_signal(signal.SIGSTOP)
    try:
        through = is_through(lab)
        ran = lab.run("--detach", code=None)
    finally:
        first.send_signal(signal.SIGCONT)
    gate.touch()

    assert through or ran.code == 3, ran
    if not through:
        assert f"process {first.pid} of" in ran.err
        assert "Wait until it is through and run the same command again" in ran.err
    assert ended(first)[0] == 0
    assert set(lab.receipts()) == ALL
    assert sum(len(lab.sent(run_id)) for run_id in lab.runs()) == len(ALL)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_leaves_the_jobs_when_asked_to(lab: Lab, gate: Path, times: int) -> None:
    process = lab.start("--on-interrupt", "leave")
    until(lambda: is_through(lab), "everything is submitted")
    for _ in range(times):
        process.send_signal(signal.SIGINT)

    code, _, err = ended(process)

    assert code in (130, -signal.SIGINT)
    assert times > 1 or f"The jobs of {lab.runs()[0]} go on." in err
    assert "Traceback" not in err or times > 1
    gate.touch()
    ran = lab.run()
    assert ran.calls["SubmitJob"] == 0
    assert set(lab.receipts()) == ALL


def test_ctrl_c_cancels_the_jobs_when_asked_to(lab: Lab, gate: Path) -> None:
    process = lab.start("--on-interrupt", "cancel")
    until(lambda: is_through(lab), "everything is submitted")
    process.send_signal(signal.SIGINT)

    code, _, err = ended(process)

    assert code == 130
    assert err.count("Cancelled ") == 3
    until(lambda: not lab.json("status", code=None)["live_runs"], "the jobs have ended")
    gate.touch()
    lab.run()
    assert set(lab.receipts()) == ALL


def test_ctrl_c_without_a_terminal_leaves_the_jobs(lab: Lab, gate: Path) -> None:
    process = lab.start()
    until(lambda: is_through(lab), "everything is submitted")
    process.send_signal(signal.SIGINT)

    assert ended(process)[0] == 130
    assert lab.json("status")["live_runs"] == lab.runs()


def test_ctrl_c_before_anything_is_sent_says_so(lab: Lab) -> None:
    """Interrupted as soon as it runs: whatever it had begun, the next command finishes."""
    process = lab.start("--on-interrupt", "leave")
    until(lambda: (lab.store / "driver").exists() or process.poll() is not None, "it takes the lock")
    process.send_signal(signal.SIGINT)

    assert ended(process)[0] in (130, 0)
    lab.run()
    assert set(lab.receipts()) == ALL
    assert sum(len(lab.sent(run_id)) for run_id in lab.runs()) == len(ALL)
