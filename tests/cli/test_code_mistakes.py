"""Mistakes in a pipeline's code, as `plan` and `run` tell them: errors with file and line, and no table of jobs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from batch_pipeline import Input, Job, Output, Step, WorkflowTask
from batch_pipeline.wire.contract import CommandExit
from tests.cli.letters import Run


class Wrong(Step):
    """Has an output that could not be told from its file."""

    text = Input()
    upper = Output("*.txt")

    def run(self, job: Job) -> None:
        """Not run here."""


class WrongKind(Wrong):
    """Has an image of which no digest could be made."""

    upper = Output("upper.txt")
    image = Path("image")  # type: ignore[assignment]


def pipeline_of(step: type[Step]) -> type[WorkflowTask]:
    class Letters(WorkflowTask):
        """One step."""

        def workflow(self) -> None:
            self.new_task("upper", step).in_text = self.source("{sample}.txt")

    return Letters


@pytest.mark.parametrize("verb", [("plan",), ("run", "--dry-run"), ("run",)])
@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (Wrong, "Wrong.upper has the pattern '*.txt'. Give the Output many=True, or name each file."),
        (WrongKind, "WrongKind.image must be an image's name, not PosixPath('image')."),
    ],
)
def test_errors_of_code_stand_in_the_place_of_the_table(
    world: Path, run: Run, verb: tuple[str, ...], step: type[Step], sentence: str
) -> None:
    result = run(*verb, "--sample-list-file", "list.txt", workflow=pipeline_of(step))
    assert (result.code, result.out) == (CommandExit.USAGE, "")
    assert result.err.startswith(f"Error: {Path(__file__)}, line ")
    assert sentence in result.err


def test_the_record_of_a_plan_has_its_errors_beside_its_jobs(world: Path, run: Run) -> None:
    result = run("plan", "--json", "--sample-list-file", "list.txt", workflow=pipeline_of(Wrong))
    record = json.loads(result.out)
    assert (result.code, len(record["jobs"]), len(record["problems"])) == (CommandExit.FAILED, 1, 1)
