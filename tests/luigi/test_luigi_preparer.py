"""What a run needs is made by Luigi, each after those that it needs; a failure says what failed and how to go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from batch_pipeline.luigi_adapter.preparer import Preparer
from batch_pipeline.records.preparation import Preparation, missing_reasons
from batch_pipeline.wire.errors import (
    BackendFailed,
    BatchPipelineError,
    DeploymentFailed,
    InvalidUse,
    RunConflict,
    StoreFailed,
)
from tests.luigi.conftest import free_port

NEEDS = {"image_base": (), "image_trim": ("image_base",), "definitions": ("image_base", "image_trim"), "code": ()}


class Workshop:
    """Preparations that are there once they are made; it counts what is asked."""

    def __init__(self, *there: str) -> None:
        self.there = set(there)
        self.asked: list[str] = []
        self.made: list[str] = []
        self.said: list[str] = []
        self.failing: dict[str, BaseException] = {}
        self.without_effect: set[str] = set()

    def preparations(self) -> Sequence[Preparation]:
        return [
            Preparation(
                name=name,
                title=f"the {name}",
                missing=lambda name=name: self._missing(name),  # type: ignore[misc]
                make=lambda name=name: self._make(name),  # type: ignore[misc]
                remedy=f"`deploy {name}`.",
                needs=needs,
            )
            for name, needs in NEEDS.items()
        ]

    def preparer(self, url: str | None = None, pipeline: str = "Diamond") -> Preparer:
        return Preparer(pipeline, self.preparations(), scheduler_url=url, say=self.said.append)

    def _missing(self, name: str) -> str:
        self.asked.append(name)
        return "" if name in self.there else "it is not there"

    def _make(self, name: str) -> None:
        if name in self.failing:
            raise self.failing[name]
        self.made.append(name)
        if name not in self.without_effect:
            self.there.add(name)


def test_what_needs_something_missing_is_missing_without_a_check() -> None:
    workshop = Workshop("image_trim", "definitions", "code")
    assert missing_reasons(workshop.preparations()) == {
        "image_base": "it is not there",
        "image_trim": "after image_base",
        "definitions": "after image_base",
    }
    assert workshop.asked == ["image_base", "code"]


def test_each_is_made_once_after_those_that_it_needs() -> None:
    workshop = Workshop()
    workshop.preparer().run()
    assert sorted(workshop.made) == sorted(NEEDS)
    assert [name for name in workshop.made if name != "code"] == ["image_base", "image_trim", "definitions"]
    assert "Preparing the image_base (it is not there) …" in workshop.said


def test_only_what_is_missing_is_made() -> None:
    workshop = Workshop("image_base", "image_trim", "definitions")
    workshop.preparer().run()
    assert workshop.made == ["code"]


def test_nothing_missing_asks_once_each_and_calls_nobody() -> None:
    workshop = Workshop(*NEEDS)
    # No scheduler listens there.
    workshop.preparer(f"http://127.0.0.1:{free_port()}").run()
    assert workshop.asked == list(NEEDS)
    assert (workshop.made, workshop.said) == ([], [])


def test_a_pipeline_with_the_name_of_a_preparation_is_refused() -> None:
    workshop = Workshop()
    with pytest.raises(InvalidUse, match="name 'code' is that of a task that prepares the run"):
        workshop.preparer(pipeline="code")
    assert workshop.asked == []


def test_a_failure_names_what_failed_and_the_remedy_and_nothing_follows() -> None:
    workshop = Workshop()
    workshop.failing["image_base"] = BackendFailed("The disk is full. Empty it.")
    with pytest.raises(DeploymentFailed) as caught:
        workshop.preparer().run()
    assert caught.value.message == (
        "Could not prepare the image_base: The disk is full. Empty it. The run was not submitted. To make it by"
        " itself: `deploy image_base`."
    )
    assert set(workshop.made) <= {"code"}


@pytest.mark.parametrize("error", [RunConflict("x"), StoreFailed("x"), BackendFailed("x"), BatchPipelineError("x")])
def test_a_failure_ends_the_command_with_the_code_of_its_cause(error: BatchPipelineError) -> None:
    workshop = Workshop()
    workshop.failing["image_base"] = error
    with pytest.raises(DeploymentFailed) as caught:
        workshop.preparer().run()
    assert caught.value.exit_code == error.exit_code


def test_what_is_made_and_still_missing_is_a_failure() -> None:
    workshop = Workshop()
    workshop.without_effect.add("image_trim")
    with pytest.raises(DeploymentFailed, match=r"the image_trim was made and is still missing \(it is not there\)"):
        workshop.preparer().run()
    assert "definitions" not in workshop.made


def test_an_interrupt_comes_out_and_a_second_time_goes_on_where_it_was() -> None:
    workshop = Workshop()
    workshop.failing["definitions"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        workshop.preparer().run()
    before = list(workshop.made)
    workshop.failing.clear()
    workshop.preparer().run()
    assert sorted(workshop.made) == sorted(NEEDS)
    assert workshop.made[: len(before)] == before


def test_the_steps_depend_on_what_was_prepared(
    drivers: Callable[..., Any], luigid: str, rpc: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    workshop = Workshop("code")
    preparer = workshop.preparer(luigid)
    preparer.run()
    states = {name: rpc(luigid, "dep_graph", task_id=task.task_id) for name, task in preparer.tasks.items()}
    assert states["Diamond"][preparer.tasks["Diamond"].task_id]["status"] == "DONE"

    driver = drivers(luigid)
    adapter = driver.adapter("01P", preparer=preparer)
    adapter.submit_all()
    assert driver.calls == ["trim", "count", "sort", "merge"]
    trim, prepared = adapter.task_ids["trim"], preparer.tasks["Diamond"]
    graph = rpc(luigid, "dep_graph", task_id=trim)
    assert graph[trim]["deps"] == [prepared.task_id]
    assert graph[prepared.task_id]["name"] == "prepare.Diamond"
    assert sorted(graph[prepared.task_id]["deps"]) == sorted(preparer.tasks[name].task_id for name in NEEDS)
    # What was there before is on the page too, though it was not run.
    eventually(lambda: rpc(luigid, "dep_graph", task_id=trim)[preparer.tasks["code"].task_id]["status"], "DONE")


def test_a_failure_is_shown_on_the_page(luigid: str, rpc: Callable[..., Any]) -> None:
    workshop = Workshop()
    workshop.failing["image_trim"] = BackendFailed("No space is left.")
    preparer = workshop.preparer(luigid)
    with pytest.raises(DeploymentFailed, match="No space is left"):
        preparer.run()
    graph = rpc(luigid, "dep_graph", task_id=preparer.tasks["Diamond"].task_id)
    states = {name: graph[task.task_id]["status"] for name, task in preparer.tasks.items()}
    assert states["image_base"] == "DONE"
    assert states["image_trim"] == "FAILED"
    assert (states["definitions"], states["Diamond"]) == ("PENDING", "PENDING")


def test_a_paused_scheduler_lets_nothing_be_made_and_says_so(luigid: str, rpc: Callable[..., Any]) -> None:
    workshop = Workshop()
    rpc(luigid, "pause")
    try:
        with pytest.raises(RunConflict, match=r"did not let image_base, .* be prepared; nothing was submitted\. Press"):
            workshop.preparer(luigid).run()
    finally:
        rpc(luigid, "unpause")
    assert workshop.made == []


def test_no_scheduler_is_said_before_anything_is_made() -> None:
    workshop = Workshop()
    with pytest.raises(BackendFailed, match="No Luigi scheduler at"):
        workshop.preparer(f"http://127.0.0.1:{free_port()}").run()
    assert workshop.made == []
