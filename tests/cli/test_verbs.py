from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete

from batch_pipeline.cli import run_command_line
from batch_pipeline.cli.group import EXIT_CODES, VERBS, Verbs
from batch_pipeline.records.events import FailedCell, Listener, Outcome, StepProgress
from batch_pipeline.records.request import Request
from batch_pipeline.run import driver
from batch_pipeline.run.driver import Interrupted
from batch_pipeline.wire.contract import CommandExit, EndReason
from tests.cli import letters
from tests.cli.letters import Aligned, Letters, Run

LIST = ("--sample-list-file", "list.txt")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Request, bool]]:
    """What `driver.run` was asked; nothing runs, and everything counts as done."""
    requests: list[tuple[Request, bool]] = []

    def run(request: Request, listener: Listener, *, detach: bool = False, preparer: None = None) -> Outcome:
        requests.append((request, detach))
        outcome = _outcome(detached=detach, run_ids=["R1"], submitted=2)
        listener.ended(outcome)
        return outcome

    monkeypatch.setattr(driver, "run", run)
    return requests


def _outcome(**changes: Any) -> Outcome:
    progress = {name: StepProgress(step=name, done_before=2) for name in ("upper", "count")}
    return Outcome(**({"run_ids": [], "progress": progress, "failed": []} | changes))


def answering(outcome: Outcome | BaseException) -> Callable[..., Outcome]:
    def run(request: Request, listener: Listener, *, detach: bool = False, preparer: None = None) -> Outcome:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return run


def test_the_seeds_own_command_line_means_run(world: Path, run: Run, asked: list[tuple[Request, bool]]) -> None:
    told = run(
        "--queue=mixed", "--bucket-name=B", "--pipeline-name=first-test-pipeline", "--sample-list-file=./list.txt"
    )
    assert told.code == CommandExit.DONE
    ((request, detach),) = asked
    assert request.samples.names == ("S1", "S2")
    assert request.store.folder == world / "store" / "B"
    assert request.graph.name == "first-test-pipeline"
    assert (request.settings.backend.queue, detach) == ("mixed", False)
    assert request.argv[0] == "--queue=mixed"


def test_options_become_the_request(world: Path, run: Run, asked: list[tuple[Request, bool]]) -> None:
    (world / "some.txt").write_text("S2\n")
    run(
        *("run", *LIST, "--from-step", "upper", "--samples", "@some.txt", "--samples", "S1.bam", "--force", "--detach"),
        *("--accept-code-changes", "--min-success", "0.5", "--description", "why", "--tag", "owner=ada=b"),
        *("--times", "3", "--style", "fancy", "--no-with-blanks", "--param", "upper.times=4", "--check-results"),
        *("--sources", "/data", "--reference", "hg38"),
    )
    ((request, detach),) = asked
    chosen = request.selection
    assert detach
    assert chosen.steps == frozenset({"upper", "count"})
    assert chosen.samples == frozenset({"S1", "S2"})
    assert (chosen.force, chosen.accept_code_changes, chosen.min_success) == (True, True, 0.5)
    assert (request.description, request.settings.tags) == ("why", {"owner": "ada=b"})
    assert (request.sources, request.reference, request.check_results) == ("/data", "hg38", True)
    assert request.params == {"upper": {"times": 4, "style": "fancy"}, "count": {"with_blanks": False}}


def test_settings_of_steps_presets_and_options_of_one_task_become_the_request(
    world: Path, run: Run, asked: list[tuple[Request, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (world / "batch_pipeline.toml").write_text(
        "[steps.upper]\nmemory_mb = 2000\ncpus = 2\n[preset.big.steps.upper]\nmemory_mb = 8000\n"
        '[preset.big.steps.count]\nimage = "count:2"\n'
    )
    monkeypatch.setenv("BATCH_PIPELINE__STEPS__COUNT__CPUS", "3")
    run("run", *LIST, "--preset", "big", "--set", "steps.upper.timeout_seconds=90", "--upper.times", "3")
    ((request, _),) = asked
    upper, count = request.graph["upper"], request.graph["count"]
    assert (upper.memory_mb, upper.cpus, upper.timeout_seconds, upper.image) == (8000, 2, 90, "")
    assert (count.memory_mb, count.cpus, count.timeout_seconds, count.image) == (1024, 3, None, "count:2")
    assert request.params["upper"]["times"] == 3


def test_options_come_from_the_environment_too(
    world: Path, run: Run, asked: list[tuple[Request, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_PIPELINE__SAMPLES__FILE", "list.txt")
    monkeypatch.setenv("BATCH_PIPELINE__PARAMS__TIMES", "5")
    monkeypatch.setenv("BATCH_PIPELINE__PIPELINE__CHECK_RESULTS", "true")
    monkeypatch.setenv("BATCH_PIPELINE__CLI__FORCE", "1")
    assert run("run", "--trust-receipts").code == CommandExit.DONE
    ((request, _),) = asked
    assert request.params["upper"]["times"] == 5
    assert request.selection.force
    assert not request.check_results


def test_a_folder_here_is_meant_when_the_store_has_none_of_its_name(
    world: Path, run: Run, asked: list[tuple[Request, bool]]
) -> None:
    (world / "bams").mkdir()
    for given, meant in (("bams", str(world / "bams")), ("./SR", str(world / "SR")), ("SR", "SR"), ("x", "x")):
        run("run", *LIST, "--sources", given)
        assert asked[-1][0].sources == meant


def test_nothing_to_do_is_said_in_one_line(world: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "run", answering(_outcome(store_calls={"list": 3})))
    told = run(*LIST)
    assert (told.code, told.out, told.err) == (CommandExit.DONE, "Nothing to do: 4 of 4 cells are done.\n", "")
    assert "Store calls for planning: 3 list (3 in all)." in run(*LIST, "--verbose").err


def test_failures_end_the_command_with_1_and_are_folded(world: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = [
        FailedCell(step="upper", sample="S1", reason=EndReason.OUT_OF_MEMORY, message="It needs 2 GiB."),
        FailedCell(step="count", sample="S1", reason=EndReason.DEPENDENCY, message="", because_of="upper"),
    ]
    outcome = _outcome(run_ids=["R"], failed=failed, blocked=[("upper", "S2", "It is gone.")], submitted=2)
    monkeypatch.setattr(driver, "run", answering(outcome))
    told = run(*LIST)
    assert told.code == CommandExit.FAILED
    assert "count: 1 not run: 1 because upper failed (1 out of memory)" in told.out
    assert "  upper, out of memory: S1\n    It needs 2 GiB." in told.out
    assert "1 cell cannot run:\n  upper: S2: It is gone." in told.out
    record = json.loads(run(*LIST, "--json").out)
    assert (record["ok"], record["failed"][0]["reason"]) == (False, "out_of_memory")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "--max-cost-cancel needs a bound, and prices.max_cost is 0. Give --max-cost too."),
        (["--max-cost", "5", "--detach"], "--max-cost-cancel acts while a driver follows the run"),
    ],
)
def test_cancelling_for_cost_is_refused_where_it_would_do_nothing(
    world: Path, run: Run, asked: list[tuple[Request, bool]], options: list[str], sentence: str
) -> None:
    told = run("run", *LIST, "--max-cost-cancel", *options)
    assert (told.code, asked) == (CommandExit.USAGE, [])
    assert sentence in told.err


def test_detached_jobs_go_on(world: Path, run: Run, asked: list[tuple[Request, bool]]) -> None:
    told = run(*LIST, "--detach")
    assert told.code == CommandExit.DONE
    assert told.out.startswith("Queued: R1. The jobs go on by themselves")


@pytest.fixture
def cancelled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Runs that were cancelled; the driver is interrupted while it watches R1."""
    from batch_pipeline.run import cancel

    runs: list[tuple[str, ...]] = []

    def record(store: object, settings: object, run_ids: tuple[str, ...], **_: object) -> list[cancel.Cancelled]:
        runs.append(tuple(run_ids))
        job = {"step": "upper", "job": "upper-0-0", "native_id": "1", "cells": 2, "size": 3}
        return [cancel.Cancelled(run_id=run_id, **job) for run_id in run_ids]  # type: ignore[arg-type]

    monkeypatch.setattr(driver, "run", answering(Interrupted(["R1"])))
    monkeypatch.setattr(cancel, "cancel", record)
    return runs


@pytest.mark.parametrize(
    ("flag", "gone"), [("leave", []), ("cancel", [("R1",)]), ("ask", [])], ids=["leave", "cancel", "ask, nobody there"]
)
def test_ctrl_c_does_what_the_flag_says(
    world: Path,
    run: Run,
    cancelled: list[tuple[str, ...]],
    flag: str,
    gone: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    told = run(*LIST, "--on-interrupt", flag)
    assert (told.code, cancelled) == (CommandExit.INTERRUPTED, gone)
    assert ("Cancelled upper" if gone else "The jobs of R1 go on.") in told.err


@pytest.mark.parametrize(
    ("answer", "gone"),
    [("cancel", [("R1",)]), ("leave", []), (click.Abort(), []), (KeyboardInterrupt(), [])],
    ids=["cancel", "leave", "second Ctrl-C", "second Ctrl-C, raw"],
)
def test_ctrl_c_asks_at_a_terminal(
    world: Path,
    run: Run,
    cancelled: list[tuple[str, ...]],
    terminal: None,
    answer: str | BaseException,
    gone: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def prompt(*_: object, **__: object) -> str:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(click, "prompt", prompt)
    assert run(*LIST).code == CommandExit.INTERRUPTED
    assert cancelled == gone


@pytest.mark.parametrize(("typed", "gone"), [("c", [("R1",)]), ("Cancel", [("R1",)]), ("what\nL", []), ("", [])])
def test_the_first_letter_is_an_answer(
    world: Path,
    run: Run,
    cancelled: list[tuple[str, ...]],
    terminal: None,
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    gone: list[tuple[str, ...]],
) -> None:
    answers = iter(typed.split("\n"))
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: next(answers))
    assert run(*LIST).code == CommandExit.INTERRUPTED
    assert cancelled == gone


def test_ctrl_c_before_anything_was_submitted_says_so(world: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "run", answering(Interrupted([])))
    told = run(*LIST)
    assert (told.code, told.err) == (CommandExit.INTERRUPTED, "Interrupted; nothing was submitted.\n")


def test_a_plan_shows_steps_and_jobs_and_writes_nothing(world: Path, run: Run) -> None:
    before = sorted(world.rglob("*"))
    told = run("plan", *LIST)
    assert told.code == CommandExit.DONE
    assert "upper      2     0       2  never done" in told.out
    assert "count-0-0     2  each child after its twin in upper-0-0" in told.out
    assert "2 SubmitJob calls:" in told.out
    assert run("run", *LIST, "--dry-run").out == told.out
    assert sorted(world.rglob("*")) == before


def test_a_plan_before_the_first_run_finds_an_empty_store_and_makes_none(world: Path, run: Run) -> None:
    first = run("plan", *LIST, "--store", "new/store", "--sources", "store/default/SR")
    assert (first.code, first.out) == (CommandExit.DONE, run("plan", *LIST).out)
    assert f"The store {world / 'new' / 'store'} is not there yet; `run` makes the folder." in first.err
    assert not (world / "new").exists()


def test_a_plan_as_json(world: Path, run: Run) -> None:
    record = json.loads(run("plan", *LIST, "--only-step", "upper", "--samples", "S2", "--json").out)
    assert record["submit_calls"] == 1
    assert record["jobs"][0]["samples"] == ["S2"]
    assert record["live_runs"] == []


def test_planning_costs_listings_only(world: Path, run: Run) -> None:
    err = run("plan", *LIST, "--verbose").err
    assert "list" in err
    assert "get" not in err
    assert "put" not in err


def test_status_of_a_store_where_nothing_ran(world: Path, run: Run) -> None:
    told = run("status", *LIST)
    assert told.code == CommandExit.DONE
    assert "upper      2     0       0       2           0  never done" in told.out
    record = json.loads(run("status", *LIST, "--json").out)
    assert [(step["step"], step["to_run"]) for step in record["steps"]] == [("upper", 2), ("count", 2)]


def test_status_explains_a_sample(world: Path, run: Run) -> None:
    told = run("status", *LIST, "--explain", "S1")
    assert told.code == CommandExit.DONE
    assert "upper: to run: never done" in told.out
    assert json.loads(run("status", *LIST, "--explain", "S1", "--json").out)[1]["state"] == "to run"


def test_failed_chooses_nothing_when_nothing_failed(world: Path, run: Run) -> None:
    told = run(*LIST, "--failed")
    assert (told.code, told.out) == (CommandExit.DONE, "Nothing to do: no sample has failed.\n")


def test_an_empty_history_is_told(world: Path, run: Run) -> None:
    assert "No run is recorded in" in run("runs", workflow=None).out
    assert json.loads(run("runs", "--json", workflow=None).out) == []
    assert run("cancel", workflow=None).out == "Nothing to cancel: no run is live.\n"
    assert "No reference is in" in run("reference", workflow=Aligned).out


def test_one_cell_is_told_as_one() -> None:
    from batch_pipeline.run.cancel import Cancelled

    job = Cancelled(run_id="R1", step="total", job="total", native_id="n", cells=1, size=1)
    assert str(job) == "total: job total of run R1 (1 cell)"


def test_cancel_asks_and_needs_somebody_to_ask(
    world: Path, run: Run, cancelled: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    live = world / "store" / "default" / "live"
    live.mkdir()
    (live / "R1.json").write_text("{}")
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    refused = run("cancel")
    assert (refused.code, cancelled) == (CommandExit.USAGE, [])
    assert "Give --yes" in refused.err
    assert "There is no run 'R2'. There are: R1." in run("cancel", "R2", "--yes").err
    told = run("cancel", "R1", "--yes").out
    assert told == "Cancelled 2 cells of 1 job.\n  upper: job upper-0-0 of run R1 (2 of 3 cells)\n"
    assert (
        "R1, step upper, 2 samples (S1, S2), and there is no terminal"
        in run("cancel", "--step", "upper", "--samples", "S1,S2").err
    )
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(click, "confirm", lambda *_, **__: (_ for _ in ()).throw(click.Abort()))
    assert run("cancel").code == CommandExit.INTERRUPTED
    assert cancelled == [("R1",)]
    assert json.loads(run("cancel", "--yes", "--json").out)["cancelled"][0]["cells"] == 2


def test_help_names_every_verb_exit_code_and_option(run: Run) -> None:
    told = run("--help")
    assert told.code == CommandExit.DONE
    assert all(verb in told.out for verb in VERBS)
    assert all(str(int(code)) in told.out for code in EXIT_CODES)
    group = Verbs(Letters, [])
    for verb in VERBS:
        command = group.get_command(click.Context(group), verb)
        assert command is not None
        told = run(verb, "--help")
        assert told.code == CommandExit.DONE, verb
        words = "".join(told.out.split())
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert option.opts[0] in words


def test_every_option_has_its_variable(run: Run) -> None:
    group = Verbs(Aligned, [])
    for verb in VERBS:
        command = group.get_command(click.Context(group), verb)
        assert command is not None
        context = click.Context(command, info_name=verb)
        for option in command.params:
            if isinstance(option, click.Option):
                extra = option.get_help_extra(context)
                assert extra.get("envvars", ("",))[0].startswith("BATCH_PIPELINE__"), (verb, option.opts)


def test_parameters_of_steps_are_options_with_help_range_and_default(run: Run) -> None:
    words = " ".join(run("run", "--help").out.split())
    assert "Parameters of the steps: --times INTEGER RANGE How often." in words
    assert "BATCH_PIPELINE__PARAMS__TIMES; default: 1; 1<=x<=9" in words
    assert "--style [plain|fancy]" in words
    assert "--with-blanks / --no-with-blanks Whether blanks count." in words
    assert "default: true" in words


def test_exit_codes_are_all_described() -> None:
    assert set(EXIT_CODES) == set(CommandExit)


def test_the_version_is_told(run: Run) -> None:
    assert run("--version").out.startswith("batch_pipeline ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(run: Run, shell: str) -> None:
    told = run("completion", shell, workflow=None)
    assert told.code == CommandExit.DONE
    assert "_BATCH_PIPELINE_COMPLETE" in told.out


def completed(words: list[str], incomplete: str) -> list[str]:
    complete = ShellComplete(Verbs(Letters, []), {}, "main.py", "_MAIN_PY_COMPLETE")
    return [item.value for item in complete.get_completions(words, incomplete)]


@pytest.mark.parametrize(
    ("words", "incomplete", "found"),
    [
        ([], "pl", ["plan"]),
        ([], "--sou", ["--sources"]),
        (["plan"], "--time", ["--times"]),
        (["plan", "--backend"], "e", ["embedded"]),
        (["plan", "--from-step"], "", ["upper", "count"]),
        (["run", "--only-step"], "c", ["count"]),
        (["plan", *LIST, "--samples"], "S", ["S1", "S2"]),
        ([*LIST, "--samples"], "S", ["S1", "S2"]),
        (["logs", *LIST], "S", ["S1", "S2"]),
        (["logs", "S1"], "u", ["upper"]),
        (["plan", "--sample-list-file", "none", "--samples"], "S", []),
        (["cancel"], "", ["01B", "01A"]),
        (["cancel", "--store", "/nowhere"], "", []),
    ],
    ids=str,
)
def test_shells_complete(world: Path, words: list[str], incomplete: str, found: list[str]) -> None:
    for run_id in ("01A", "01B"):
        (world / "store" / "default" / "runs" / run_id).mkdir(parents=True)
    assert completed(words, incomplete) == found


def test_doctor_tells_everything_at_once(world: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from batch_pipeline import backends
    from batch_pipeline.backends.memory import MemoryBackend

    monkeypatch.setattr(backends, "create", lambda _: MemoryBackend())
    told = run("doctor", *LIST)
    assert "ok   store:" in told.out
    assert "ok   samples: 2 in list.txt" in told.out
    assert "ok   pipeline: Letters: upper -> count" in told.out
    assert f"warn lint: {letters.__file__}, line " in told.out
    assert "Upper does not use its parameter times" in told.out
    assert told.code == CommandExit.DONE
    assert "ok   backend: embedded answers" in told.out
    assert not list((world / "store" / "default").rglob("doctor/*"))

    monkeypatch.setattr("batch_pipeline.cli.doctor.LOW_SPACE", 1 << 62)
    monkeypatch.setattr("batch_pipeline.cli.doctor.PACKAGES", ("click", "no_such_package"))
    monkeypatch.setattr(Letters, "tools", ("no-such-tool",), raising=False)
    bad = run("doctor", "--sample-list-file", "none.txt", "--scheduler-host", "127.0.0.1", "--scheduler-port", "1")
    assert bad.code == CommandExit.FAILED
    for sentence in (
        "BAD  packages: no_such_package cannot be found.\n       Install",
        "BAD  samples: The sample list none.txt",
        "BAD  disk of the store:",
        "BAD  scheduler: luigid at http://127.0.0.1:1 does not answer\n       Start one with the verb ui",
    ):
        assert sentence in bad.out
    findings = json.loads(run("doctor", "--store", "list.txt", "--json", workflow=None).out)
    assert [finding["sentence"] for finding in findings if finding["check"] == "store" and not finding["ok"]]


def test_doctor_warns_of_a_store_that_is_not_there_yet(world: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from batch_pipeline import backends
    from batch_pipeline.backends.memory import MemoryBackend

    monkeypatch.setattr(backends, "create", lambda _: MemoryBackend())
    first = run("doctor", "--store", "new", workflow=None)
    assert first.code == CommandExit.DONE
    assert f"warn store: {world / 'new'} is not there yet; `run` makes the folder" in first.out


def test_doctor_tries_the_scratch_and_cleans_it(
    world: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from batch_pipeline import backends
    from batch_pipeline.backends.memory import MemoryBackend
    from batch_pipeline.wire.scratch import Scratch, own_folder

    monkeypatch.setattr(backends, "create", lambda _: MemoryBackend())
    monkeypatch.setenv("BATCH_PIPELINE_SCRATCH", str(tmp_path / "scratch"))
    own = Path(own_folder(str(tmp_path / "scratch")))
    killed, living = Scratch(str(own.parent)), Scratch(str(own.parent))
    killed.forget()
    (own.parent / ".references").mkdir()
    told = run("doctor", *LIST)
    assert f"ok   scratch: {own} is yours alone and can be written" in told.out
    assert f"When nothing of theirs runs: rm -r {own.parent}/.references" in told.out
    assert "ok   state:" in told.out
    assert len(list(own.iterdir())) == 2
    assert "ok   scratch: 1 left by killed processes, removed" in run("doctor", *LIST, "--clean").out
    assert list(own.iterdir()) == [Path(living.path)]
    living.close()

    own.chmod(0o777)
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o777)
    monkeypatch.setenv("BATCH_PIPELINE__EMBEDDED__STATE", str(state))
    bad = run("doctor", *LIST)
    assert bad.code == CommandExit.FAILED
    assert f"BAD  scratch: {own} may be written by others (mode 0777); it must be a folder of" in bad.out
    assert f"BAD  state: {state} may be written by others (mode 0777); it must be a folder of" in bad.out


def test_a_reader_that_has_enough_gets_no_traceback(world: Path) -> None:
    code = (
        "import sys; from batch_pipeline.cli import run_command_line; from tests.cli.letters import Letters;"
        f"sys.exit(run_command_line(Letters, ['plan', *{LIST!r}, '--json']))"
    )
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=world,
        env={"PYTHONPATH": str(root), "HOME": str(world)},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), said) == (CommandExit.FAILED, b"")


HEAVY = ("rich", "boto3", "botocore", "luigi", "sciluigi", "pydantic", "ulid", "tornado", "stamina")


@pytest.mark.parametrize(
    "args", [["--help"], ["run", "--help"], ["plan", "--help"], ["--version"], ["plan", *LIST, "--json"]], ids=str
)
def test_a_command_imports_only_what_it_uses(world: Path, args: list[str]) -> None:
    code = (
        "import sys; from batch_pipeline.cli import run_command_line; from tests.cli.letters import Letters;"
        f"run_command_line(Letters, {args!r});"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    root = Path(__file__).resolve().parents[2]
    told = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=world,
        env={"PYTHONPATH": str(root), "HOME": str(world)},
    )
    assert told.stderr == "[]\n"


def test_the_package_without_a_pipeline_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    code = run_command_line(None, [])
    told = "".join(capsys.readouterr())
    assert code == CommandExit.USAGE
    assert "runs" in told
    assert "plan " not in told


@pytest.mark.parametrize(
    ("before", "verb", "behind"),
    [
        (["--store", "store/default"], "status", [*LIST]),
        (["--verbose", *LIST, "--store", "store/default"], "plan", []),
        (["--store=store/default"], "runs", []),
        (["--description", "status", *LIST, "--dry-run"], "", []),
    ],
)
def test_options_before_the_verb_are_the_verbs(
    world: Path, run: Run, before: list[str], verb: str, behind: list[str]
) -> None:
    told = run(*before, *filter(None, [verb]), *behind)
    usual = run(verb or "run", *before, *behind)
    assert (told.code, told.out, told.err) == (CommandExit.DONE, usual.out, usual.err)


def test_options_before_the_verb_are_understood_without_a_pipeline(world: Path, run: Run) -> None:
    assert "No run is recorded in" in run("--store", "store/default", "runs", workflow=None).out


def test_a_store_is_made_with_the_folders_above_it(world: Path, run: Run, asked: list[tuple[Request, bool]]) -> None:
    assert run("run", *LIST, "--store", "a/b/c", "--sources", "store/default/SR").code == CommandExit.DONE
    assert (world / "a" / "b" / "c").is_dir()
