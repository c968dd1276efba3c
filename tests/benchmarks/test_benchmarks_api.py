"""What AWS is asked, as the service counts it: a handful of calls for any number of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.records.driver_log import FLUSH_SECONDS
from batch_pipeline.records.spent import MOST_JOBS, MOST_RECEIPTS
from benchmarks.api import ours
from benchmarks.api_peers import OURS, measured
from benchmarks.million import killed, simulated

pytestmark = pytest.mark.repository


def test_a_thousand_samples_cost_a_call_a_step_and_a_call_a_poll() -> None:
    first, nothing, again = ours(1_000)
    assert first.api == {
        "CreateJobQueue": 1,
        "DescribeJobDefinitions": 1,
        "DescribeJobQueues": 1,
        "DescribeJobs": first.api["DescribeJobs"],
        "RegisterJobDefinition": 3,
        "SubmitJob": 3,
    }
    # One a poll, and one for the last words.
    assert 10 < first.polls <= first.api["DescribeJobs"] <= first.polls + 1
    assert nothing.api == {}
    assert set(nothing.store) == {"list"}
    known = {"DescribeJobDefinitions": 1, "DescribeJobQueues": 1, "SubmitJob": 3}
    assert {name: number for name, number in again.api.items() if name != "DescribeJobs"} == known
    assert again.api["DescribeJobs"] <= again.polls + 1


def test_no_call_is_made_for_a_sample() -> None:
    few, many = ours(20)[0], ours(400)[0]
    assert few.control == many.control
    # A listing of receipts a step, each of one page.
    assert few.store == many.store


def pieces_of_log(phase: Any) -> int:
    """How often a driver keeps its log in a phase at most: the more, the slower the machine is."""
    return int(phase["seconds"] / FLUSH_SECONDS) + 1


@pytest.mark.slow
def test_what_a_simulated_cohort_costs_grows_with_its_arrays_alone(tmp_path: Path) -> None:
    one, two = (simulated(samples, tmp_path / str(samples)) for samples in (10_000, 20_000))
    for found, arrays in ((one, 3), (two, 6)):
        phases = found["phases"]
        assert list(phases) == ["plan", "submit", "watch", "judge"]
        assert found["arrays"] == phases["submit"]["api"]["SubmitJob"] == arrays
        assert phases["submit"]["api"]["RegisterJobDefinition"] == 3
        assert phases["plan"]["api"] == {}
        assert set(phases["plan"]["store"]) == {"list"}
        assert set(phases["watch"]["api"]) == {"DescribeJobs"}
        assert set(phases["watch"]["store"]) <= {"put"}
        assert phases["watch"]["store"].get("put", 0) <= pieces_of_log(phases["watch"])
        # The rows of each, to judge and for the cell table; and what the run took is told by a few receipts, as many
        # for any cohort.
        assert phases["judge"]["store"]["get"] <= 2 * arrays + 4 + 3 * MOST_JOBS * (MOST_RECEIPTS + 1)
    more = two["phases"]["submit"]["store"]["put"] - one["phases"]["submit"]["store"]["put"]
    # Rows, header, intent, native id.
    assert more <= 3 * 5 + pieces_of_log(two["phases"]["submit"])


@pytest.mark.slow
def test_a_simulated_driver_that_is_killed_again_and_again_sends_each_cell_once(tmp_path: Path) -> None:
    found = killed(2_000, tmp_path, kills=12)
    assert found["kills"] == 12
    # 2,000 of AWS's million.
    assert found["most_live"] <= 1_800


@pytest.mark.engine
def test_ours_beside_the_peers_is_a_whole_run_with_its_store_in_s3() -> None:
    (found,) = measured(3, [OURS])
    assert found.why_not == ""
    assert {name: number for name, number in found.batch.items() if name != "DescribeJobs"} == {
        "DescribeJobDefinitions": 1,
        "DescribeJobQueues": 1,
        "RegisterJobDefinition": 3,
        "SubmitJob": 3,
    }
    # Nine cells: output, log, receipt.
    assert found.s3["PUT"] >= 27
    assert found.s3["LIST"] > 0
