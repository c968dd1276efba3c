"""What a pilot does with tasks: real commands, on a pool in memory. The defects that PyAnamo and PiCaS had, by name."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from batch_pipeline.pool.base import Claim, Filter, Settlement, WriteResult
from batch_pipeline.pool.pilots.hooks import Hooks, hooks_of
from batch_pipeline.pool.pilots.pilot import Pilot
from batch_pipeline.pool.pilots.pilot_config import PilotConfig, PilotStats, Report, StopCriteria, Until
from batch_pipeline.pool.stores.memory import MemoryStore
from batch_pipeline.pool.task import Action, Move, Task, TaskOutcome, TaskSpec, TaskState
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import InvalidUse, PoolFailed, StepFailed
from batch_pipeline.wire.store import open_store

T = TypeVar("T")
WAITING, READY, HELD, DONE, FAILED, CANCELLED = TaskState


@pytest.fixture
def pool() -> MemoryStore:
    return MemoryStore()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def add(pool: MemoryStore, name: str, *command: str, **more: Any) -> None:
    pool.add([TaskSpec(id=name, command=command, **more)], now_ms=now_ms())


def pilot(pool: MemoryStore, *, hooks: Hooks | None = None, store: Path | None = None, **config: Any) -> Pilot:
    settings = {"owner": "p", "grace_seconds": 0.5, "longest_pause": 0.2, **config}
    return Pilot(
        pool, PilotConfig(**settings), hooks=hooks, store=None if store is None else lambda: open_store(str(store))
    )


def drain(pool: MemoryStore, **config: Any) -> Report:
    return pilot(pool, **config).run()


def there(pool: MemoryStore, name: str) -> Task:
    task = pool.get(name)
    assert task is not None
    return task


def outcome(pool: MemoryStore, name: str) -> TaskOutcome:
    found = there(pool, name).outcome
    assert found is not None
    return found


def story(pool: MemoryStore, name: str) -> list[Move]:
    return [event.move for event in pool.events(task_id=name)]


# Commands and how they end.


def test_a_command_is_words_and_never_split(pool: MemoryStore) -> None:
    """PyAnamo split its scripts at blanks: `bash -c 'exit 3'` became a broken command."""
    add(pool, "words", "bash", "-c", 'echo "$0|$1"; exit 3', "a b", "c'd")
    report = drain(pool)
    assert there(pool, "words").state is FAILED
    found = outcome(pool, "words")
    assert (found.exit_code, found.end_reason) == (3, EndReason.STEP_FAILED)
    assert found.log_tail == "a b|c'd\n"
    assert found.error == "Exit code 3. Its last line: a b|c'd"
    assert (report.stats.failed, report.why) == (1, "nothing is left to do")


def test_an_exit_code_that_is_not_0_is_a_failure(pool: MemoryStore) -> None:
    """PyAnamo said `done` whatever the exit code."""
    add(pool, "good", "true")
    add(pool, "bad", "false")
    add(pool, "killed", "bash", "-c", "kill -9 $$")
    drain(pool)
    assert [there(pool, name).state for name in ("good", "bad", "killed")] == [DONE, FAILED, FAILED]
    assert (outcome(pool, "killed").exit_code, outcome(pool, "killed").end_reason) == (137, EndReason.OUT_OF_MEMORY)


@pytest.mark.parametrize("parent", ["", "item"])
def test_a_program_that_is_not_there_fails_its_task_and_not_the_pilot(pool: MemoryStore, parent: str) -> None:
    """It killed PyAnamo's pilot with the item locked; a nested task became `done`."""
    add(pool, "absent", "no-such-program-here", parent=parent)
    add(pool, "next", "true", parent=parent)
    drain(pool)
    assert (there(pool, "absent").state, there(pool, "next").state) == (FAILED, DONE)
    assert "no-such-program-here could not be started" in outcome(pool, "absent").error
    assert outcome(pool, "absent").exit_code == 127


def test_a_failure_is_tried_again_as_often_as_it_may(pool: MemoryStore, tmp_path: Path) -> None:
    add(pool, "third", "bash", "-c", f"echo x >>{tmp_path}/n; [ $(wc -l <{tmp_path}/n) = 3 ]", most_attempts=3)
    add(pool, "never", "false", most_attempts=2)
    report = drain(pool)
    assert story(pool, "third") == [Move.ADDED, *[Move.CLAIMED, Move.AGAIN] * 2, Move.CLAIMED, Move.DONE]
    assert story(pool, "never") == [Move.ADDED, Move.CLAIMED, Move.AGAIN, Move.CLAIMED, Move.FAILED]
    assert (report.stats.done, report.stats.failed, report.stats.again) == (1, 1, 3)


def test_a_time_limit_ends_the_whole_group_of_processes(pool: MemoryStore, tmp_path: Path) -> None:
    """PiCaS waited for `sleep 3` under a limit of 1 s, and then called the finished work an error."""
    line = f"trap '' TERM; set -m; sleep 60 & echo $! >{tmp_path}/child; set +m; sleep 60"
    pool.add([TaskSpec(id="long", shell=line, time_limit_seconds=0.3)], now_ms=now_ms())
    drain(pool, grace_seconds=0.2)
    assert (there(pool, "long").state, outcome(pool, "long").end_reason) == (FAILED, EndReason.TIMEOUT)
    assert "longer than its time limit of 0.3 s" in outcome(pool, "long").error
    _until(lambda: _is_gone(int((tmp_path / "child").read_text())))


def test_a_task_finds_itself_in_its_environment(pool: MemoryStore) -> None:
    pool.add(
        [TaskSpec(id="s/1", shell="env | grep -E '^(TASK_|X=)' | grep -v TASK_PILOT | sort", environment={"X": "y z"})],
        now_ms=0,
    )
    drain(pool)
    assert outcome(pool, "s/1").log_tail.splitlines() == [
        "TASK_ATTEMPT=1",
        "TASK_CLASS=default",
        "TASK_ID=s/1",
        "TASK_PARENT=",
        "X=y z",
    ]


# Logs and results.


@pytest.mark.parametrize("size", [0, 1999, 2000, 2001, 4000, 4001, 50_000])
def test_a_log_of_any_size_is_kept(pool: MemoryStore, tmp_path: Path, size: int) -> None:
    """PyAnamo routed logs by size with a hole at its border, and all tasks of a group wrote to one place."""
    (tmp_path / "store").mkdir()
    for name in ("a", "b"):
        add(pool, name, "bash", "-c", f"head -c {size} /dev/zero | tr '\\0' {name}", parent="g")
    drain(pool, store=tmp_path / "store", items=2)
    for name in ("a", "b"):
        found = outcome(pool, name)
        if size <= 4000:
            assert (found.log_tail, found.log_key) == (name * size, "")
        else:
            assert (tmp_path / "store" / found.log_key).read_text() == name * size
            assert found.log_key == f"pool/logs/{name}/1.log"


def test_lines_of_results_become_fields(pool: MemoryStore) -> None:
    said = ("::result reads=12", "::result note=a = b ", "::result reads=13", "no ::result x=1", "::progress 0.5")
    add(pool, "t", "printf", "%s\\n%s\\n%s\\n%s\\n%s\\n%s", *said, "::result last=yes")
    drain(pool)
    assert outcome(pool, "t").fields == {"reads": "13", "note": "a = b", "last": "yes"}
    assert there(pool, "t").progress == 1.0


def test_a_task_is_heard_of_while_it_runs(pool: MemoryStore, tmp_path: Path) -> None:
    """Its progress stands in the pool and its long log in the store before it has ended."""
    store, gate = tmp_path / "store", tmp_path / "gate"
    store.mkdir()
    said = "head -c 9000 /dev/zero | tr '\\0' x; echo; echo ::progress 0.4"
    pool.add([TaskSpec(id="t", shell=f"{said}; until [ -e {gate} ]; do sleep 0.02; done")], now_ms=0)
    seen: list[tuple[float | None, int]] = []

    def look() -> None:
        log = store / "pool/logs/t/1.log"
        _until(lambda: there(pool, "t").progress == 0.4 and log.exists())
        seen.append((there(pool, "t").progress, log.stat().st_size))
        gate.touch()

    thread = threading.Thread(target=look)
    thread.start()
    drain(pool, store=store, lease_seconds=0.3)
    thread.join()
    assert seen[0][0] == 0.4
    assert seen[0][1] >= 9000


def test_files_are_brought_and_taken(pool: MemoryStore, tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "in").mkdir(parents=True)
    (store / "in" / "a.txt").write_text("some words\n")
    shell = 'tr a-z A-Z <"$INPUT_TEXT" >"$OUTPUT_BIG"; basename "$INPUT_TEXT"'
    both: dict[str, Any] = {"inputs": {"text": "in/a.txt"}, "outputs": {"big": "out/a.txt"}}
    pool.add([TaskSpec(id="good", shell=shell, **both)], now_ms=0)
    pool.add([TaskSpec(id="lazy", shell="true", **{**both, "outputs": {"big": "out/b.txt"}})], now_ms=0)
    pool.add([TaskSpec(id="lost", shell="true", inputs={"text": "in/b.txt"})], now_ms=0)
    drain(pool, store=store)
    assert (store / "out" / "a.txt").read_text() == "SOME WORDS\n"
    assert outcome(pool, "good").log_tail == "a.txt\n"
    assert (there(pool, "lazy").state, outcome(pool, "lazy").end_reason) == (FAILED, EndReason.INVALID_OUTPUT)
    assert (there(pool, "lost").state, outcome(pool, "lost").end_reason) == (FAILED, EndReason.MISSING_INPUT)
    assert not (store / "out" / "b.txt").exists()


# Items and sub-tasks.


def test_sub_tasks_are_counted_by_what_they_are(pool: MemoryStore) -> None:
    """PyAnamo counted ends: one sub-task reset and done again made 4 of 3, and the item never was done."""
    for number in range(4):
        add(pool, f"i/{number}", "true", parent="i")
    drain(pool, nests=2)
    pool.move(Filter(ids=frozenset({"i/1"})), Action.RESET, now_ms=now_ms(), act="one")
    [nest] = pool.nests()
    assert (nest.size, nest.progress, nest.state) == (4, 0.75, READY)
    drain(pool)
    [nest] = pool.nests()
    assert (nest.size, nest.progress, nest.state) == (4, 1.0, DONE)
    pool.move(Filter(parent="i"), Action.RESET, now_ms=now_ms(), act="all")
    drain(pool, criteria=StopCriteria(tasks=2))
    [nest] = pool.nests()
    assert (nest.progress, nest.state) == (0.5, READY)
    drain(pool)
    assert next(iter(pool.nests())).progress == 1.0


def test_items_and_nests_run_at_once(pool: MemoryStore, tmp_path: Path) -> None:
    """Two items of two sub-tasks each: four commands that end only when all four have begun."""
    all_here = f"[ $(ls {tmp_path} | wc -l) = 4 ]"
    meet = f"touch {tmp_path}/$TASK_PARENT-$$; for i in $(seq 500); do {all_here} && exit 0; sleep 0.02; done; exit 1"
    pool.add([TaskSpec(id=f"{item}/{n}", shell=meet, parent=item) for item in "ab" for n in (0, 1)], now_ms=0)
    report = drain(pool, items=2, nests=2)
    assert report.stats.done == 4


def test_a_class_has_no_more_than_its_slots(pool: MemoryStore, tmp_path: Path) -> None:
    alone = f"mkdir {tmp_path}/alone && sleep 0.05 && rmdir {tmp_path}/alone"
    pool.add([TaskSpec(id=f"g{n}", shell=alone, resource_class="gpu") for n in range(4)], now_ms=0)
    pool.add([TaskSpec(id=f"s{n}", shell="true", resource_class="small") for n in range(4)], now_ms=0)
    assert drain(pool, items=4, class_slots={"gpu": 1}).stats.done == 8


def test_a_pilot_of_some_classes_leaves_the_others(pool: MemoryStore) -> None:
    add(pool, "gpu", "true", resource_class="gpu")
    add(pool, "small", "true", resource_class="small")
    report = drain(pool, classes=frozenset({"gpu"}))
    assert (report.stats.done, there(pool, "small").state) == (1, READY)


def test_what_waits_is_done_after_what_it_waits_for(pool: MemoryStore) -> None:
    add(pool, "c", "true", after=("a", "b"))
    add(pool, "a", "true")
    add(pool, "b", "true")
    add(pool, "x", "true", after=("y",))
    add(pool, "y", "false")
    report = drain(pool)
    assert (report.stats.done, report.why) == (3, "nothing is left to do")
    assert (there(pool, "x").state, there(pool, "x").reason) == (WAITING, "y failed")


# When it stops.


@pytest.mark.parametrize(
    ("criteria", "done", "why"),
    [
        (StopCriteria(tasks=2), 2, "2 tasks were begun"),
        (StopCriteria(until=Until.EMPTY), 5, "nothing is left to do"),
        (StopCriteria(until=Until.ENDLESS, idle_seconds=0.1), 5, "there was nothing to do for 0.1 s"),
        (StopCriteria(total_seconds=0.0), 0, "0 s are over"),
    ],
)
def test_a_criterion_stops_it(pool: MemoryStore, criteria: StopCriteria, done: int, why: str) -> None:
    for number in range(5):
        add(pool, f"t{number}", "true")
    report = drain(pool, criteria=criteria)
    assert (report.stats.done, report.why) == (done, why)
    assert pool.counts().of(READY) == 5 - done


def test_a_host_on_which_nothing_works_stops(pool: MemoryStore) -> None:
    for number in range(9):
        add(pool, f"t{number}", "false", most_attempts=5)
    report = drain(pool, criteria=StopCriteria(scrubs=3))
    assert (report.stats.again, report.why) == (3, "3 attempts failed")


def test_no_task_is_begun_that_would_end_after_the_wall_time(pool: MemoryStore) -> None:
    """PiCaS looked at the time after each task only. The wall time is in seconds, for all that runs at once."""
    for number in range(3):
        add(pool, f"slow{number}", "sleep", "0.7", resource_class="slow")
    add(pool, "fast", "true", resource_class="fast", priority=-1)
    report = drain(pool, criteria=StopCriteria(wall_seconds=1.2))
    assert there(pool, "fast").state is DONE
    assert (there(pool, "slow0").state, there(pool, "slow1").state) == (DONE, READY)
    assert there(pool, "slow1").attempts + there(pool, "slow1").returns == 0
    assert report.why == "no task would end before its wall time"


def test_what_runs_at_the_wall_time_is_given_back(pool: MemoryStore) -> None:
    add(pool, "t", "sleep", "60")
    report = drain(pool, criteria=StopCriteria(wall_seconds=0.3))
    task = there(pool, "t")
    assert (task.state, task.attempts, task.returns) == (READY, 0, 1)
    assert report.stats.released == 1


def test_what_is_added_meanwhile_is_done_too(pool: MemoryStore) -> None:
    """PyAnamo's pilot worked through the list that it had read at its start."""

    def added(task: Task, outcome: TaskOutcome) -> None:
        if task.id == "first":
            add(pool, "second", "true")

    add(pool, "first", "true")
    assert drain(pool, hooks=Hooks(cleanup_run=added)).stats.done == 2


# Hooks.


class Recorder:
    """Hooks that write down when they are called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def prepare_env(self) -> None:
        self.calls.append("prepare_env")

    def cleanup_env(self) -> None:
        self.calls.append("cleanup_env")

    def prepare_run(self, task: Task) -> Mapping[str, str]:
        self.calls.append(f"prepare {task.id}")
        if task.id == "bad":
            raise ValueError("no licence")
        return {"LICENCE": "x-1"}

    def cleanup_run(self, task: Task, outcome: TaskOutcome) -> None:
        self.calls.append(f"cleanup {task.id} {outcome.exit_code}")
        raise RuntimeError("is told and changes nothing")

    def stop(self, standing: PilotStats) -> bool:
        return standing.failed >= 1


def test_hooks_are_called_around_the_pilot_and_each_run(pool: MemoryStore) -> None:
    """PiCaS's hooks were not told which task it was."""
    recorder = Recorder()
    pool.add([TaskSpec(id="good", shell='echo "$LICENCE"')], now_ms=0)
    add(pool, "bad", "true")
    add(pool, "never", "true")
    hooks = Hooks(
        **{
            name: getattr(recorder, name)
            for name in ("prepare_env", "cleanup_env", "prepare_run", "cleanup_run", "stop")
        }
    )
    report = drain(pool, hooks=hooks, most_ahead=0)
    assert recorder.calls == ["prepare_env", "prepare good", "cleanup good 0", "prepare bad", "cleanup_env"]
    assert outcome(pool, "good").log_tail == "x-1\n"
    assert there(pool, "bad").state is FAILED
    assert "The hook prepare_run failed: ValueError: no licence" in outcome(pool, "bad").error
    assert (there(pool, "never").state, report.why) == (READY, "the hook stop said so")


def test_a_host_that_cannot_be_prepared_claims_nothing(pool: MemoryStore) -> None:
    add(pool, "t", "true")
    with pytest.raises(StepFailed, match="prepare_env"):
        drain(pool, hooks=hooks_of(scripts={"prepare_env": "exit 4"}))
    assert story(pool, "t") == [Move.ADDED]


def test_scripts_are_hooks_too(pool: MemoryStore, tmp_path: Path) -> None:
    add(pool, "t", "bash", "-c", "exit 5")
    said = tmp_path / "said"
    scripts = {
        name: f'echo {name} "$TASK_ID" "$TASK_EXIT_CODE" >>{said}'
        for name in ("prepare_run", "cleanup_run", "cleanup_env")
    }
    drain(pool, hooks=hooks_of(scripts=scripts))
    assert said.read_text() == "prepare_run t \ncleanup_run t 5\ncleanup_env  \n"


@pytest.mark.parametrize("name", ["nothing", "no_such_module_here:X", "os:NoClass", "os:sep", "collections:Counter"])
def test_hooks_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(InvalidUse, match=r"hooks|methods"):
        hooks_of(name)


# Signals, lost leases, a pool that cannot be reached.

PILOT = """
import sys, time
from pathlib import Path
from batch_pipeline.pool.pilots.pilot import Pilot
from batch_pipeline.pool.stores.sqlite.store import SqliteStore
from batch_pipeline.pool.pilots.pilot_config import PilotConfig
report = Pilot(SqliteStore(Path(sys.argv[1])), PilotConfig(owner="p", grace_seconds=float(sys.argv[2]))).run()
print(report.why, report.signal, report.stats.released)
"""


@pytest.mark.parametrize(("number", "grace"), [(signal.SIGTERM, 5.0), (signal.SIGINT, 5.0), (signal.SIGTERM, 0.2)])
def test_a_signal_gives_back_what_is_held_within_seconds(tmp_path: Path, number: signal.Signals, grace: float) -> None:
    """PiCaS could not end the command, and ended with 0. A task's own handler may clean up, for a while."""
    from batch_pipeline.pool.stores.sqlite.store import SqliteStore

    store = SqliteStore(tmp_path / "pool.sqlite")
    deaf = "trap '' TERM; " if grace < 1 else ""
    store.add([TaskSpec(id="t", shell=f"{deaf}echo $$ >{tmp_path}/pid; sleep 60; sleep 60")], now_ms=0)
    process = subprocess.Popen(
        [sys.executable, "-c", PILOT, str(tmp_path / "pool.sqlite"), str(grace)], stdout=subprocess.PIPE, text=True
    )
    try:
        pid = int(_said(tmp_path / "pid"))
        process.send_signal(number)
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert out == f"the pilot was told to end by {number.name} {int(number)} 1\n"
    task = store.get("t")
    store.close()
    assert task is not None
    assert (task.state, task.attempts, task.returns) == (READY, 0, 1)
    _until(lambda: _is_gone(pid))


def test_a_late_signal_opens_nothing_again(tmp_path: Path) -> None:
    """In PiCaS a signal after the end of a token had it done once more."""
    from batch_pipeline.pool.stores.sqlite.store import SqliteStore

    store = SqliteStore(tmp_path / "pool.sqlite")
    store.add([TaskSpec(id="t", command=("true",)), TaskSpec(id="u", command=("sleep", "60"))], now_ms=0)
    command = [sys.executable, "-c", PILOT, str(tmp_path / "pool.sqlite"), "5"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _until(lambda: store.counts().of(DONE) == 1 and store.counts().of(HELD) == 1)
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    finally:
        process.kill()
        process.wait()
    assert [event.move for event in store.events(task_id="t")] == [Move.ADDED, Move.CLAIMED, Move.DONE]
    assert store.counts().of(READY) == 1
    store.close()


def test_a_task_that_is_deleted_ends_its_command_and_not_the_pilot(pool: MemoryStore) -> None:
    """A token that was deleted killed PiCaS's pilot."""
    add(pool, "t", "sleep", "60")
    add(pool, "u", "true", priority=-1)

    def delete() -> None:
        _until(lambda: there(pool, "t").state is HELD)
        pool.move(Filter(ids=frozenset({"t"})), Action.DELETE, now_ms=now_ms(), act="a", force=True)

    thread = threading.Thread(target=delete)
    thread.start()
    report = drain(pool, lease_seconds=0.3)
    thread.join()
    assert (report.stats.done, report.stats.refused) == (1, 1)
    assert pool.get("t") is None


def test_nothing_of_a_pilot_that_is_killed_runs_on(tmp_path: Path) -> None:
    from batch_pipeline.pool.stores.sqlite.store import SqliteStore

    store = SqliteStore(tmp_path / "pool.sqlite")
    # What a command starts may make a group of its own.
    line = f"set -m; sleep 60 & echo $! >{tmp_path}/pid; sleep 60; sleep 60"
    store.add([TaskSpec(id="t", shell=line)], now_ms=0)
    process = subprocess.Popen([sys.executable, "-c", PILOT, str(tmp_path / "pool.sqlite"), "5"])
    try:
        pid = int(_said(tmp_path / "pid"))
    finally:
        process.kill()
        process.wait()
    _until(lambda: _is_gone(pid))
    assert store.counts().of(HELD) == 1
    assert store.reap(now_ms=now_ms() + 60_001) == ["t"]
    assert store.counts().of(READY) == 1
    store.close()


def test_a_task_that_another_has_is_stopped_and_not_settled(pool: MemoryStore) -> None:
    """PiCaS and PyAnamo wrote over whoever had the task by then."""
    add(pool, "t", "sleep", "60")
    one = pilot(pool, lease_seconds=0.3)
    thread = threading.Thread(target=_snatched, args=(pool,))
    thread.start()
    report = one.run()
    thread.join()
    assert (report.stats.refused, report.stats.done) == (1, 0)
    task = there(pool, "t")
    assert (task.state, task.owner) == (DONE, "other")
    assert story(pool, "t") == [Move.ADDED, Move.CLAIMED, Move.RESET, Move.CLAIMED, Move.DONE]


def _snatched(pool: MemoryStore) -> None:
    _until(lambda: there(pool, "t").state is HELD)
    pool.move(Filter(), Action.RESET, now_ms=now_ms(), act="a", force=True)
    [claim] = pool.claim("other", 1, lease_ms=60_000, now_ms=now_ms())
    _until(lambda: False, seconds=0.4)
    pool.settle([Settlement(claim=claim, outcome=TaskOutcome(end_reason=EndReason.FINISHED))], now_ms=now_ms())


class Broken(MemoryStore):
    """A pool whose connection is cut for some of its calls: before the write, or after, with the answer lost."""

    def __init__(self, *, before: Sequence[str] = (), after: Sequence[str] = ()) -> None:
        super().__init__()
        self.before, self.after = list(before), list(after)

    def claim(self, *given: Any, **more: Any) -> list[Claim]:
        return self._cut("claim", lambda: MemoryStore.claim(self, *given, **more))

    def settle(self, *given: Any, **more: Any) -> list[WriteResult]:
        return self._cut("settle", lambda: MemoryStore.settle(self, *given, **more))

    def _cut(self, name: str, act: Callable[[], list[T]]) -> list[T]:
        if name in self.before:
            self.before.remove(name)
            raise PoolFailed("The pool could not be reached.")
        found = act()
        if name in self.after:
            self.after.remove(name)
            raise PoolFailed("The pool could not be reached.")
        return found


@pytest.mark.parametrize("when", ["before", "after"])
def test_no_end_is_lost_when_the_pool_is_away(when: str) -> None:
    """PiCaS lost a finished result at a conflict, and left its token locked."""
    pool = Broken(**{when: ["settle", "settle"]})
    add(pool, "t", "true")
    report = drain(pool)
    assert (there(pool, "t").state, report.stats.done) == (DONE, 1)
    assert story(pool, "t") == [Move.ADDED, Move.CLAIMED, Move.DONE]


def test_a_claim_that_failed_is_asked_again() -> None:
    pool = Broken(before=["claim"] * 3)
    add(pool, "t", "true")
    assert drain(pool).stats.done == 1


def test_what_a_dead_pilot_held_is_done_by_the_next(pool: MemoryStore) -> None:
    """Nobody took back what PyAnamo's and PiCaS's dead pilots had locked."""
    add(pool, "t", "true")
    pool.claim("dead", 1, lease_ms=100, now_ms=now_ms())
    report = drain(pool, lease_seconds=0.4)
    assert (report.stats.done, there(pool, "t").owner) == (1, "p")
    assert Move.EXPIRED in story(pool, "t")


def _is_gone(pid: int) -> bool:
    """Whether a process has ended; where nobody reaps orphans it stays as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _said(path: Path) -> str:
    _until(lambda: path.exists() and path.read_text().endswith("\n"))
    return path.read_text()


def _until(holds: Callable[[], bool], *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            if seconds < 1:
                return
            raise AssertionError("It did not come to that.")
        time.sleep(0.01)


def test_a_class_of_hooks_is_named_by_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_hooks_of_a_test.py").write_text(
        textwrap.dedent("""
        class Mine:
            def prepare_run(self, task):
                return {"WHO": task.id}
        """)
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    pool = MemoryStore()
    pool.add([TaskSpec(id="t", shell='echo "$WHO"')], now_ms=0)
    drain(pool, hooks=hooks_of("my_hooks_of_a_test:Mine"))
    assert outcome(pool, "t").log_tail == "t\n"
