from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.backends.definitions import (
    configured_definitions,
    definitions_of,
    join_definition,
    named,
    resources,
    retry_strategy,
)
from batch_pipeline.config import load_settings
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.wire.errors import InvalidPipeline
from main import Fusions


def _of(graph: Graph, **options: Any) -> Mapping[str, Mapping[str, Any]]:
    return definitions_of(graph, pipeline="letters", **{"attempts": 3, **options})


def _with_file(graph: Graph, folder: Path, text: str) -> Graph:
    (folder / "job_definitions").mkdir()
    (folder / "job_definitions" / "count.json").write_text(text)
    return replace(graph, root=folder)


def test_a_definition_follows_from_the_class(graph: Graph) -> None:
    definition = dict(_of(graph)["count"])
    assert re.fullmatch(r"letters-count-[0-9a-f]{12}", definition.pop("jobDefinitionName"))
    assert definition == {
        "type": "container",
        "containerProperties": {
            "image": "batch_pipeline/none",
            "resourceRequirements": [{"type": "VCPU", "value": "2"}, {"type": "MEMORY", "value": "64"}],
            "logConfiguration": {"logDriver": "awslogs"},
            "linuxParameters": {"initProcessEnabled": True},
            "volumes": [{"name": "scratch", "host": {"sourcePath": "/docker_scratch"}}],
            "mountPoints": [{"sourceVolume": "scratch", "containerPath": "/scratch", "readOnly": False}],
        },
        "retryStrategy": retry_strategy(3),
        "timeout": {"attemptDurationSeconds": 600},
        "tags": {"batch-pipeline": "letters"},
    }


def test_the_settings_name_roles_and_the_log_group(graph: Graph) -> None:
    settings = load_settings(
        {
            "aws.job_role": "arn:aws:iam::1:role/job",
            "aws.execution_role": "arn:aws:iam::1:role/run",
            "aws.log_group": "/aws/batch/lab",
            "backend.attempts": 2,
        },
        environ={},
        folder=Path("/nonexistent"),
    )
    definition = configured_definitions(graph, settings, pipeline="other")["count"]
    container = definition["containerProperties"]
    assert container["jobRoleArn"] == "arn:aws:iam::1:role/job"
    assert container["executionRoleArn"] == "arn:aws:iam::1:role/run"
    assert container["logConfiguration"]["options"] == {"awslogs-group": "/aws/batch/lab"}
    assert definition["retryStrategy"]["attempts"] == 2
    assert definition["tags"] == {"batch-pipeline": "other"}
    assert configured_definitions(graph, settings)["count"]["tags"] == {"batch-pipeline": graph.name}


def test_only_what_is_nobodys_fault_is_tried_again() -> None:
    assert retry_strategy(1) == {"attempts": 1}
    assert retry_strategy(4) == {
        "attempts": 4,
        "evaluateOnExit": [
            {"action": "RETRY", "onStatusReason": "Host EC2*"},
            {"action": "RETRY", "onStatusReason": "Your Spot Task was interrupted*"},
            {"action": "RETRY", "onExitCode": "69"},
            {"action": "RETRY", "onExitCode": "75"},
            {"action": "EXIT", "onReason": "*"},
        ],
    }


def test_the_name_changes_with_the_content_and_with_nothing_else(graph: Graph) -> None:
    again, other = _of(graph), _of(graph, attempts=2)
    assert again["count"] == _of(graph)["count"]
    assert again["count"]["jobDefinitionName"] != other["count"]["jobDefinitionName"]
    assert len(named({"jobDefinitionName": "n" * 300})["jobDefinitionName"]) == 128


def test_a_file_wins_over_the_class(graph: Graph, tmp_path: Path) -> None:
    text = json.dumps(
        {
            "jobDefinitionName": "my count",
            "type": "container",
            "containerProperties": {
                "image": "${IMAGE}",
                "jobRoleArn": "${JOB_ROLE_ARN}",
                "resourceRequirements": [
                    {"type": "VCPU", "value": "0.5"},
                    {"type": "MEMORY", "value": "${MEMORY_MB}"},
                ],
            },
            "timeout": {"attemptDurationSeconds": 60},
        }
    )
    changed = _with_file(graph, tmp_path, text)
    definition = _of(changed)["count"]
    assert re.fullmatch(r"my-count-[0-9a-f]{12}", definition["jobDefinitionName"])
    assert resources(definition) == (1, 64)
    assert definition["timeout"] == {"attemptDurationSeconds": 60}
    assert "jobRoleArn" not in definition["containerProperties"]
    with_role = _of(changed, job_role_arn="arn:aws:iam::1:role/r")["count"]
    assert with_role["containerProperties"]["jobRoleArn"] == "arn:aws:iam::1:role/r"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "cannot be read"),
        ("[]", "is not in the shape"),
        ('{"type": "container"}', "is not in the shape"),
        ('{"containerProperties": {"image": "${TAG}"}}', r"has \$\{TAG\}; it may have: \$\{IMAGE\}"),
        ('{"containerProperties": {"image": "i", "memory": "much"}}', "is not in the shape"),
        ('{"containerProperties": {"image": "i"}}', "needs an image and at least 4 MiB"),
        ('{"containerProperties": {"memory": 64}}', "needs an image and at least 4 MiB"),
        (
            json.dumps({"containerProperties": {"image": "i", "memory": 64}, "parameters": {"p": "x" * 25_000}}),
            "AWS takes 24576",
        ),
        (
            json.dumps(
                {
                    "containerProperties": {"image": "i", "memory": 64},
                    "retryStrategy": {"attempts": 2, "evaluateOnExit": [{"action": "EXIT", "onExitCode": "1"}] * 6},
                }
            ),
            "more than 5 evaluateOnExit rules",
        ),
    ],
)
def test_a_wrong_file_is_told_by_name(text: str, sentence: str, graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(InvalidPipeline, match=sentence) as raised:
        _of(_with_file(graph, tmp_path, text))
    assert str(tmp_path / "job_definitions" / "count.json") in raised.value.message


def test_a_join_has_the_image_and_the_retries_of_its_step(graph: Graph) -> None:
    definition = _of(graph)["count"]
    join = join_definition(definition)
    assert join["containerProperties"]["image"] == definition["containerProperties"]["image"]
    assert join["retryStrategy"] == definition["retryStrategy"]
    assert resources(join) == (1, 128)
    assert "timeout" not in join
    assert join["jobDefinitionName"].startswith("batch-pipeline-join-")


def test_the_shipped_definitions_follow_the_steps() -> None:
    root = Path(__file__).resolve().parents[2]
    graph = Graph.of(Fusions)
    shipped = _of(graph)
    generated = _of(replace(graph, root=root / "tests"))
    assert {path.stem for path in (root / "job_definitions").glob("*.json")} == set(graph.names)
    for name, step in ((node.name, node.step) for node in graph):
        assert re.fullmatch(rf"{name}-[0-9a-f]{{12}}", shipped[name]["jobDefinitionName"])
        assert resources(shipped[name]) == (step.cpus, step.memory_mb)
        assert shipped[name]["retryStrategy"] == retry_strategy(3)
        assert shipped[name]["containerProperties"] == generated[name]["containerProperties"]
