"""Plans of the worked examples, whole, and the states of cells in rare combinations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batch_pipeline.backends.quotas import AWS_BATCH
from batch_pipeline.pipeline.plan import CellState, Conflict, LiveJob, Plan, Selection, Why
from batch_pipeline.pipeline.planner import make_plan
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.wire.errors import InvalidPlan
from batch_pipeline.wire.layout import COHORT
from tests.pipeline.promises import cells_in, check_plan, finish, sent_cells, states_of
from tests.pipeline.worlds import World, graph_of

SAMPLE, GATHER = Scope.SAMPLE, Scope.COHORT
CHAIN = graph_of(("picard", SAMPLE, ()), ("kallisto", SAMPLE, ["picard"]), ("pizzly", SAMPLE, ["kallisto"]))
WITH_TABLE = graph_of(("picard", SAMPLE, ()), ("kallisto", SAMPLE, ["picard"]), ("table", GATHER, ["kallisto"]))

DONE, TO_RUN, LIVE = CellState.DONE, CellState.TO_RUN, CellState.LIVE
DEFERRED, BLOCKED, SKIPPED = CellState.DEFERRED, CellState.BLOCKED, CellState.SKIPPED


def chain(samples: int) -> World:
    return World(graph=CHAIN, samples=[f"x{i}" for i in range(samples)], max_array_size=10_000, max_dependencies=20)


def with_table(samples: int) -> World:
    return World(graph=WITH_TABLE, samples=[f"x{i}" for i in range(samples)])


def told(plan: Plan) -> list[str]:
    """One line a job: name, samples, dependencies."""
    return [
        f"{job.name} {'join' if job.join else ' '.join(plan.samples[i] for i in job.members) or 'gather'}"
        + "".join(
            f" {'<<' if edge.index_by_index else '<-'} {edge.job}{' (live)' if edge.live else ''}" for edge in job.after
        )
        for job in plan.jobs
    ]


def test_nine_samples_are_three_arrays() -> None:
    assert told(chain(9).plan()) == [
        "picard-0-0 x0 x1 x2 x3 x4 x5 x6 x7 x8",
        "kallisto-0-0 x0 x1 x2 x3 x4 x5 x6 x7 x8 << picard-0-0",
        "pizzly-0-0 x0 x1 x2 x3 x4 x5 x6 x7 x8 << kallisto-0-0",
    ]


@pytest.mark.slow
def test_twenty_thousand_samples_are_six_arrays() -> None:
    plan = chain(20_000).plan()
    shape = [(job.name, job.size, [(edge.job, edge.index_by_index) for edge in job.after]) for job in plan.jobs]
    assert shape == [
        ("picard-0-0", 10_000, []),
        ("picard-0-1", 10_000, []),
        ("kallisto-0-0", 10_000, [("picard-0-0", True)]),
        ("kallisto-0-1", 10_000, [("picard-0-1", True)]),
        ("pizzly-0-0", 10_000, [("kallisto-0-0", True)]),
        ("pizzly-0-1", 10_000, [("kallisto-0-1", True)]),
    ]
    assert [job.members[0] for job in plan.jobs] == [0, 10_000] * 3


def test_a_shard_of_one_is_a_plain_job_after_a_plain_job() -> None:
    assert told(chain(1).plan()) == ["picard-0-0 x0", "kallisto-0-0 x0 <- picard-0-0", "pizzly-0-0 x0 <- kallisto-0-0"]
    assert [job.size for job in chain(10_001).plan().jobs] == [10_000, 1] * 3


def test_ragged_remains_are_grouped_by_what_they_lack() -> None:
    world = chain(6)
    world.send(world.plan())
    world.run(failing={("picard", "x1"), ("kallisto", "x2"), ("picard", "x4"), ("pizzly", "x5")})
    plan = world.plan()
    check_plan(plan, world)
    assert told(plan) == [
        "picard-0-0 x1 x4",
        "kallisto-0-0 x1 x4 << picard-0-0",
        "kallisto-1-0 x2",
        "pizzly-0-0 x1 x4 << kallisto-0-0",
        "pizzly-1-0 x2 <- kallisto-1-0",
        "pizzly-2-0 x5",
    ]


def test_the_next_step_follows_a_live_array_index_by_index_though_some_of_it_is_done() -> None:
    world = chain(3)
    plan = world.plan()
    world.send(plan, plan.jobs[:1])
    world.run(children=1)
    plan = world.plan()
    assert sorted(state.value for state in plan.states["picard"]) == ["done", "live", "live"]
    assert told(plan) == ["kallisto-0-0 x0 x1 x2 << job-0 (live)", "pizzly-0-0 x0 x1 x2 << kallisto-0-0"]


def test_what_cannot_follow_a_live_array_waits_for_a_later_wave() -> None:
    world = chain(4)
    plan = world.plan()
    world.send(plan, plan.jobs[:1])
    world.samples = ["x3", "x2", "x1", "x0"]
    plan = world.plan()
    assert not plan.jobs
    assert plan.states["kallisto"] == [DEFERRED] * 4
    assert [len(later.jobs) for later in finish(world)] == [0, 2]


def test_a_live_array_is_not_followed_by_a_smaller_one() -> None:
    world = chain(4)
    plan = world.plan()
    world.send(plan, plan.jobs[:1])
    world.max_array_size = 2
    plan = world.plan()
    check_plan(plan, world)
    assert plan.states["kallisto"] == [DEFERRED] * 4


def test_a_gather_waits_for_all_shards_through_joins() -> None:
    world = World(
        graph=graph_of(("one", SAMPLE, ()), ("table", GATHER, ["one"]), ("draw", SAMPLE, ["one", "table"])),
        samples=[f"x{i}" for i in range(5)],
        max_array_size=1,
        max_dependencies=2,
    )
    plan = world.plan()
    check_plan(plan, world)
    assert told(plan)[5:] == [
        "table-join-0-0 join <- one-0-0 <- one-0-1",
        "table-join-0-1 join <- one-0-2 <- one-0-3",
        "table-join-0-2 join <- one-0-4",
        "table-join-1-0 join <- table-join-0-0 <- table-join-0-1",
        "table-join-1-1 join <- table-join-0-2",
        "table gather <- table-join-1-0 <- table-join-1-1",
        *(f"draw-0-{i} x{i} <- one-0-{i} <- table" for i in range(5)),
    ]
    assert plan.members_of(plan.jobs[10]) == ((COHORT, plan.fingerprints["table"][0]),)


def test_a_step_that_reads_from_more_steps_than_a_job_may_wait_for_is_refused() -> None:
    names = ["a", "b", "c"]
    graph = graph_of(*((name, SAMPLE, ()) for name in names), ("all", SAMPLE, names))
    with pytest.raises(InvalidPlan, match="Step all reads from 3 steps that are to run, but a job may depend on 2"):
        World(graph=graph, samples=["x"], max_dependencies=2).plan()


def test_a_backend_with_one_dependency_a_job_refuses_a_gather_of_two_jobs() -> None:
    world = with_table(4)
    world.max_dependencies = 1
    with pytest.raises(InvalidPlan, match="The gather table waits for 2 jobs"):
        world.plan()


def test_a_gather_of_a_source_is_refused() -> None:
    world = World(graph=graph_of(("table", GATHER, ())), samples=["x"])
    assert told(world.plan()) == ["table gather"]
    graph = graph_of(("one", SAMPLE, ()), ("table", GATHER, ["one"]))
    graph["table"].inputs["extra"] = graph["one"].inputs["source"]  # type: ignore[index]
    with pytest.raises(InvalidPlan, match="The gather table reads a source"):
        World(graph=graph, samples=["x"]).plan()


# What a run of before left.


def test_why_a_cell_runs() -> None:
    world = chain(4)
    finish(world)
    del world.receipts["picard", "x0"]
    world.receipts["picard", "x1"] = frozenset({"another"})
    world.receipts["picard", "x2"] |= {"another"}
    plan = world.plan()
    assert plan.why["picard"] == [Why.NEVER_DONE, Why.CHANGED, Why.IN_DOUBT, None]
    assert plan.why["kallisto"] == [Why.UPSTREAM] * 3 + [None]
    assert set(world.plan(Selection(force=True)).why["pizzly"]) == {Why.FORCED}


def test_accepted_results_are_what_their_readers_see() -> None:
    world = chain(2)
    finish(world)
    old = world.plan().fingerprints["picard"]
    world.change_code("picard")
    del world.receipts["pizzly", "x1"]
    plan = world.plan(Selection(accept_code_changes=True))
    assert plan.fingerprints["picard"] == old
    assert told(plan) == ["pizzly-0-0 x1"]


def test_a_changed_reference_reruns_the_steps_that_use_it() -> None:
    world = chain(2)
    finish(world)
    world.parts["kallisto"] = replace(world.parts["kallisto"], references={"kallisto.idx": "etag 1"})
    plan = world.plan()
    assert plan.states["picard"] == [DONE] * 2
    assert {step for step, _ in sent_cells(plan)} == {"kallisto", "pizzly"}


def test_a_missing_source_blocks_its_sample_and_says_so() -> None:
    world = with_table(3)
    world.absent = {"x1"}
    plan = world.plan()
    assert plan.blocked == {
        ("picard", "x1"): "x1 is not there.",
        ("kallisto", "x1"): "It needs picard, which cannot run.",
        ("table", COHORT): "1 of 3 samples have no result for it; repair them, or give --min-success.",
    }


def test_a_source_that_is_gone_blocks_a_cell_that_was_done_unless_its_result_is_accepted() -> None:
    world = with_table(2)
    finish(world)
    world.absent = {"x1"}
    plan = world.plan()
    assert plan.blocked["picard", "x1"] == ("x1 is not there. It has an older result: --accept-code-changes trusts it.")
    accepted = world.plan(Selection(accept_code_changes=True))
    assert set(states_of(accepted).values()) == {DONE}


def test_a_result_is_not_done_when_a_part_of_what_it_reads_is_made_again_and_the_rest_cannot_be() -> None:
    graph = graph_of(("a", SAMPLE, ()), ("b", SAMPLE, ()), ("both", SAMPLE, ["a", "b"]), ("table", GATHER, ["both"]))
    world = World(graph=graph, samples=["x0"])
    finish(world)
    del world.receipts["a", "x0"], world.receipts["b", "x0"]
    chosen = Selection(steps=frozenset({"a", "both", "table"}))
    assert states_of(world.plan(chosen)) == {
        ("a", "x0"): TO_RUN,
        ("b", "x0"): SKIPPED,
        ("both", "x0"): BLOCKED,
        ("table", COHORT): BLOCKED,
    }
    finish(world, chosen)
    assert states_of(world.plan(chosen))["both", "x0"] is BLOCKED
    finish(world)
    assert set(states_of(world.plan()).values()) == {DONE}


def test_a_missing_source_of_a_sample_that_was_not_chosen_is_no_failure() -> None:
    world = with_table(3)
    world.absent = {"x1"}
    plan = world.plan(Selection(samples=frozenset({"x0"})))
    assert not plan.blocked
    assert plan.states == {
        "picard": [TO_RUN, SKIPPED, SKIPPED],
        "kallisto": [TO_RUN, SKIPPED, SKIPPED],
        "table": [SKIPPED],
    }


def test_chosen_samples_leave_a_gather_of_others_alone_and_remake_one_that_is_complete() -> None:
    world = with_table(3)
    chosen = Selection(samples=frozenset({"x0"}))
    finish(world, chosen)
    assert states_of(world.plan(chosen))["table", COHORT] is SKIPPED
    finish(world)
    world.change_source("x0")
    assert sent_cells(world.plan(chosen)) == [("picard", "x0"), ("kallisto", "x0"), ("table", COHORT)]


def test_a_gather_that_was_chosen_alone_says_what_it_lacks() -> None:
    world = with_table(3)
    plan = world.plan(Selection(steps=frozenset({"table"})))
    assert plan.blocked == {
        ("table", COHORT): "3 of 3 samples have no result for it; repair them, or give --min-success."
    }


def test_a_chosen_step_below_one_that_was_not_chosen_says_so() -> None:
    plan = chain(1).plan(Selection(steps=frozenset({"kallisto"})))
    assert plan.blocked == {("kallisto", "x0"): "It needs picard, which is not done and was not chosen."}


# Gathers of some.


def test_min_success_waits_for_all_samples_then_takes_those_that_are_there() -> None:
    world = with_table(4)
    world.absent = {"x3"}
    some = Selection(min_success=0.75)
    assert states_of(world.plan(some))["table", COHORT] is DEFERRED
    plans = finish(world, some)
    assert [len(plan.jobs) for plan in plans] == [2, 1]
    assert plans[-1].missing == {"table": ("x3",)}
    world.absent = set()
    again = finish(world, some)
    assert sent_cells(again[-1]) == [("table", COHORT)]


def test_a_gather_that_was_not_chosen_is_not_done_when_its_samples_are_made_again() -> None:
    graph = graph_of(("one", SAMPLE, ()), ("table", GATHER, ["one"]), ("draw", SAMPLE, ["table"]))
    world = World(graph=graph, samples=["x0", "x1"])
    finish(world)
    world.ran.clear()
    again = Selection(steps=frozenset({"one", "draw"}), force=True, min_success=0.5)
    plans = finish(world, again)
    assert [plan.states["table"] for plan in plans] == [[SKIPPED]]
    assert [plan.states["draw"] for plan in plans] == [[BLOCKED, BLOCKED]]
    assert sorted(world.ran) == [("one", "x0"), ("one", "x1")]


def test_too_few_for_min_success_blocks_at_once() -> None:
    world = with_table(4)
    world.absent = {"x2", "x3"}
    plan = world.plan(Selection(min_success=0.75))
    assert plan.blocked["table", COHORT] == (
        "2 of 4 samples have no result for it, and --min-success asks for 3; repair them, or give a lower"
        " --min-success."
    )


def test_seven_percent_of_a_hundred_are_seven() -> None:
    world = World(graph=WITH_TABLE, samples=[f"x{i}" for i in range(100)], max_array_size=100)
    world.absent = set(world.samples[7:])
    finish(world, Selection(min_success=0.07))
    assert ("table", COHORT) in world.receipts


def test_a_tolerant_gather_is_sent_with_the_others_and_does_without_what_cannot_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = with_table(4)
    monkeypatch.setattr(type(world.graph["table"].step), "tolerant", True)
    world.absent = {"x2", "x3"}
    plan = world.plan()
    assert states_of(plan)["table", COHORT] is TO_RUN
    assert plan.missing == {"table": ("x2", "x3")}
    assert world.plan(Selection(min_success=0.75)).states["table"] == [BLOCKED], "--min-success asks for more"
    world.absent = {"x0", "x1", "x2", "x3"}
    assert world.plan().states["table"] == [BLOCKED], "it needs one sample"


def test_a_tolerant_gather_does_not_do_without_samples_that_were_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    world = with_table(3)
    monkeypatch.setattr(type(world.graph["table"].step), "tolerant", True)
    assert world.plan(Selection(samples=frozenset({"x0"}))).states["table"] != [TO_RUN]


def test_a_gather_below_a_blocked_gather_is_blocked_and_not_deferred_for_ever() -> None:
    graph = graph_of(("one", SAMPLE, ()), ("table", GATHER, ["one"]), ("page", GATHER, ["table"]))
    world = World(graph=graph, samples=["x0", "x1"], absent={"x0"})
    plan = world.plan()
    assert plan.states["page"] == [BLOCKED]
    assert plan.blocked["page", COHORT] == "It needs table, which cannot run."


def test_a_forced_gather_of_some_is_made_once() -> None:
    world = with_table(3)
    finish(world)
    world.ran.clear()
    plans = finish(world, Selection(force=True, min_success=0.5))
    assert [len(plan.jobs) for plan in plans] == [2, 1]
    assert len(world.ran) == len(set(world.ran)) == 7


# Live jobs.


def test_a_live_job_that_makes_a_cell_otherwise_is_a_conflict() -> None:
    world = chain(2)
    plan = world.plan()
    world.send(plan, plan.jobs[:1])
    world.change_code("picard")
    assert world.plan().conflicts == (
        Conflict(run_id="RUN", step="picard", sample="x0"),
        Conflict(run_id="RUN", step="picard", sample="x1"),
    )
    assert not world.plan(Selection(accept_code_changes=True)).conflicts
    assert not world.plan(Selection(steps=frozenset())).conflicts


def test_what_others_run_is_a_conflict_only_where_it_touches_what_was_chosen() -> None:
    world = chain(3)
    world.send(world.plan(Selection(samples=frozenset({"x0", "x1"}))))
    world.change_code("picard")
    assert not world.plan(Selection(samples=frozenset({"x2"}))).conflicts
    below = world.plan(Selection(samples=frozenset({"x0"}), steps=frozenset({"pizzly"})))
    assert {conflict.step for conflict in below.conflicts} == {"pizzly"}


def test_a_step_that_was_not_chosen_and_runs_otherwise_conflicts_with_its_chosen_readers() -> None:
    world = chain(1)
    plan = world.plan()
    world.send(plan, plan.jobs[:1])
    world.change_code("picard")
    conflicts = world.plan(Selection(steps=frozenset({"kallisto"}))).conflicts
    assert conflicts == (Conflict(run_id="RUN", step="picard", sample="x0"),)


def test_accepting_adopts_a_live_job_with_its_fingerprint() -> None:
    world = chain(2)
    plan = world.plan()
    world.send(plan, plan.jobs[:1])
    world.change_code("picard")
    adopted = world.plan(Selection(accept_code_changes=True))
    assert adopted.fingerprints["picard"] == plan.fingerprints["picard"]
    assert told(adopted)[0] == "kallisto-0-0 x0 x1 << job-0 (live)"
    finish(world, Selection(accept_code_changes=True))
    assert len(world.receipts) == 6


def test_force_adopts_what_is_on_its_way() -> None:
    world = chain(2)
    finish(world)
    plan = world.plan(Selection(force=True))
    world.send(plan, plan.jobs[:2])
    resumed = world.plan(Selection(force=True))
    assert resumed.states["picard"] == resumed.states["kallisto"] == [LIVE] * 2
    assert told(resumed) == ["pizzly-0-0 x0 x1 << job-4 (live)"]


def test_a_result_is_not_made_again_while_a_live_job_is_to_read_it() -> None:
    world = chain(2)
    world.send(world.plan())
    while len(world.live()) == 3:
        world.run(children=1)
    forced = world.plan(Selection(force=True))
    check_plan(forced, world)
    assert forced.states["picard"] == [DEFERRED] * 2
    assert not forced.jobs


def test_a_live_cell_whose_input_is_made_again_waits_for_its_job_to_end() -> None:
    world = chain(2)
    picard, kallisto, pizzly = world.send(world.plan())
    for child in (*picard.children, kallisto.children[0], pizzly.children[0]):
        child.state = "failed"
    plan = world.plan()
    check_plan(plan, world)
    # Batch has not yet ended the second child of the steps below: until then it counts as one that may run.
    assert plan.states == {"picard": [TO_RUN, DEFERRED], "kallisto": [DEFERRED] * 2, "pizzly": [DEFERRED] * 2}
    finish(world)
    assert [child.state for child in kallisto.children + pizzly.children] == ["failed"] * 4
    assert len(world.receipts) == 6


def test_a_cell_that_a_live_job_is_to_make_again_is_not_done_yet() -> None:
    world = chain(2)
    finish(world)
    del world.receipts["picard", "x0"], world.receipts["picard", "x1"]
    plan = world.plan()
    world.send(plan, plan.jobs[:2])
    again = world.plan()
    check_plan(again, world)
    assert again.states == {"picard": [LIVE] * 2, "kallisto": [LIVE] * 2, "pizzly": [TO_RUN] * 2}


def test_the_job_that_was_sent_last_has_the_cell() -> None:
    world = chain(2)
    fingerprints = tuple(world.plan().fingerprints["picard"])
    inventory = world.inventory()
    jobs = [
        LiveJob(native_id="first", run_id="A", step="picard", samples=("x0", "x1"), fingerprints=fingerprints),
        LiveJob(native_id="more-memory", run_id="A", step="picard", samples=("x1",), fingerprints=fingerprints[1:]),
    ]
    inventory = replace(inventory, live=jobs)
    plan = make_plan(world.graph, world.samples, world.parts, inventory, Selection(), AWS_BATCH)
    assert plan.states["kallisto"] == [DEFERRED, TO_RUN]
    assert told(plan)[0] == "kallisto-0-0 x1 <- more-memory (live)"


def test_live_jobs_of_other_samples_and_steps_do_not_matter() -> None:
    world = chain(2)
    before = told(world.plan())
    inventory = world.inventory()
    strangers = [
        LiveJob(native_id="a", run_id="A", step="picard", samples=("other",), fingerprints=("f",)),
        LiveJob(native_id="b", run_id="A", step="removed", samples=("x0",), fingerprints=("f",)),
    ]
    inventory = replace(inventory, live=strangers)
    assert told(make_plan(world.graph, world.samples, world.parts, inventory, Selection(), AWS_BATCH)) == before


def test_counts_and_cells_name_a_gather_s_one_cell() -> None:
    world = with_table(1)
    plan = world.plan()
    assert dict(plan.cells("table")) == {COHORT: TO_RUN}
    assert dict(plan.cells("picard")) == {"x0": TO_RUN}
    assert plan.counts("kallisto") == {TO_RUN: 1}
    assert plan.under_way() == cells_in(plan, TO_RUN)
    finish(world)
    assert not world.plan().jobs


def test_an_old_result_does_not_hide_that_a_gather_lacks_samples() -> None:
    world = with_table(2)
    finish(world)
    world.receipts.pop(("picard", "x1"))
    world.receipts.pop(("kallisto", "x1"))
    world.absent = {"x1"}
    plan = world.plan(Selection(accept_code_changes=True))
    assert plan.states["table"] == [BLOCKED]


@pytest.mark.parametrize("samples", [["x0", "x1", "x2"], ["x0"], ["x0", "x2"]], ids=["more", "fewer", "others"])
def test_a_gather_is_trusted_for_its_own_samples_only(samples: list[str]) -> None:
    world = with_table(3)
    finish(world)
    world.samples = ["x0", "x1"]
    finish(world)
    world.change_code("table")
    accepted = Selection(accept_code_changes=True)
    assert not world.plan(accepted).jobs
    world.samples = samples
    assert sent_cells(world.plan(accepted)) == [("table", COHORT)]
    finish(world, accepted)
    assert world.gathered(("table", COHORT)) == set(samples)


def test_a_result_below_a_step_that_alone_was_chosen_is_not_done_any_more() -> None:
    world = chain(2)
    finish(world)
    del world.receipts["picard", "x0"]
    plan = world.plan(Selection(steps=frozenset({"picard"})))
    assert told(plan) == ["picard-0-0 x0"]
    assert plan.states["kallisto"] == plan.states["pizzly"] == [SKIPPED, DONE]
    assert {name[:2] for name in plan.retires} == {("kallisto", "x0"), ("pizzly", "x0")}


def test_forcing_one_step_makes_it_alone() -> None:
    world = chain(2)
    finish(world)
    world.ran.clear()
    finish(world, Selection(steps=frozenset({"kallisto"}), force=True))
    assert sorted(world.ran) == [("kallisto", "x0"), ("kallisto", "x1")]
