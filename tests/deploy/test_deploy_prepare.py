"""What deployment prepares for a run: which images, definitions and code are missing, asked in a few calls."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest

from batch_pipeline.backends.aws_clients import Clients, attached_maker
from batch_pipeline.backends.definitions import resources
from batch_pipeline.cli.call import CommandCall
from batch_pipeline.deploy import preparations
from batch_pipeline.deploy.definitions import wanted_definitions
from batch_pipeline.deploy.recipes import recipes
from batch_pipeline.localbatch.testing import VirtualBatch
from batch_pipeline.pipeline.images import FILE, Pin, pins_text
from batch_pipeline.pipeline.workflow import Graph, WorkflowTask
from batch_pipeline.records.preparation import missing_reasons
from batch_pipeline.wire.store import open_store
from tests.cli.letters import Aligned
from tests.deploy.conftest import REGION

pytestmark = [pytest.mark.moto, pytest.mark.filterwarnings("ignore:Tried to parse")]

AWS = {"backend__name": "aws", "aws__region": REGION, "store__url": "memory://prepare"}
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> Clients:
    """The embedded Batch in this process stands in for AWS Batch."""
    clients = Clients(attached_maker(VirtualBatch().attach))
    monkeypatch.setattr(preparations, "batch_clients", lambda settings: clients)
    return clients


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a pipeline, where one step has an image of its own."""
    for name in ("words.py", "lower.sh"):
        shutil.copyfile(EXAMPLES / name, tmp_path / name)
    (tmp_path / "dockerfiles" / "words").mkdir(parents=True)
    (tmp_path / "dockerfiles" / "words" / "Dockerfile").write_text("ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def workflow(root: Path, monkeypatch: pytest.MonkeyPatch) -> type[WorkflowTask]:
    spec = importlib.util.spec_from_file_location("prepared_words", root / "words.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    made: type[WorkflowTask] = module.WordCount
    return made


def call_of(workflow: type[WorkflowTask], **options: Any) -> CommandCall:
    return CommandCall(workflow, (), {**AWS, **options})


def reasons(call: CommandCall) -> dict[str, str]:
    store = open_store("memory://prepare-code", create=True)
    return dict(missing_reasons(preparations.deployments(call, store, with_builder=False)))


def pin(root: Path, registry: str, digests: Mapping[str, str] | None = None, **changed: str) -> None:
    """Pins all images as if they were built, but those that changed, by the digest of what they are made of."""
    pins = {
        name: Pin(
            image=f"{registry}/{name}@{(digests or {}).get(name, DIGEST)}", inputs=changed.get(name, recipe.inputs)
        )
        for name, recipe in recipes(root, "").items()
    }
    (root / FILE).write_text(pins_text(pins))


def test_before_anything_is_deployed_all_is_missing(root: Path, workflow: type[WorkflowTask], clients: Clients) -> None:
    assert reasons(call_of(workflow)) == {
        "image_base": "it was never built",
        "image_words": "after image_base",
        "definitions": "after image_base",
        "code": "it is not uploaded",
    }
    assert not clients.calls


def test_an_image_is_missing_when_what_it_is_made_of_changed(
    root: Path, workflow: type[WorkflowTask], clients: Clients
) -> None:
    pin(root, "registry.example/lab", words="other")
    assert reasons(call_of(workflow))["image_words"] == "what it is made of has changed"
    assert "image_base" not in reasons(call_of(workflow))


def test_an_image_of_this_machine_alone_is_missing_on_aws(
    root: Path, workflow: type[WorkflowTask], clients: Clients
) -> None:
    pin(root, "localhost/lab")
    assert reasons(call_of(workflow))["image_base"] == "it is on one machine only"


def test_an_image_that_its_repository_does_not_have_is_missing(
    root: Path, workflow: type[WorkflowTask], aws: None
) -> None:
    registry = f"123456789012.dkr.ecr.{REGION}.amazonaws.com/lab"
    pin(root, registry)
    assert reasons(call_of(workflow))["image_base"] == "it is not in its repository"
    ecr = boto3.client("ecr")
    manifest = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json"})
    digests = {}
    for name in ("base", "words"):
        ecr.create_repository(repositoryName=f"lab/{name}")
        put = ecr.put_image(repositoryName=f"lab/{name}", imageManifest=manifest, imageTag="t")
        digests[name] = put["image"]["imageId"]["imageDigest"]
    pin(root, registry, digests)
    assert list(reasons(call_of(workflow))) == ["definitions", "code"]


def test_definitions_and_code_are_made_once_and_looking_takes_one_call(
    root: Path, workflow: type[WorkflowTask], clients: Clients
) -> None:
    pin(root, "registry.example/lab")
    store = open_store("memory://prepare-once", create=True)
    made = {item.name: item for item in preparations.deployments(call_of(workflow), store, with_builder=False)}
    assert made["definitions"].missing().startswith("not registered: lower, words")
    for name in ("definitions", "code"):
        made[name].make()
    clients.calls.clear()
    assert missing_reasons(list(made.values())) == {}
    assert dict(clients.calls) == {"DescribeJobDefinitions": 1}
    assert len(list(store.keys("code"))) == 1


def test_a_step_whose_image_is_named_needs_none_built(
    root: Path, workflow: type[WorkflowTask], clients: Clients
) -> None:
    steps = Graph.of(workflow).names
    named = [f"steps.{step}.image=registry.example/{step}@{DIGEST}" for step in steps]
    assert list(reasons(call_of(workflow, set=named))) == ["definitions", "code"]


def test_a_step_whose_definition_names_an_image_needs_none_built(
    root: Path, workflow: type[WorkflowTask], clients: Clients
) -> None:
    definition = {
        "type": "container",
        "containerProperties": {
            "image": f"registry.example/words@{DIGEST}",
            "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "64"}],
        },
    }
    (root / "job_definitions").mkdir()
    (root / "job_definitions" / "words.json").write_text(json.dumps(definition))
    assert list(reasons(call_of(workflow))) == ["image_base", "definitions", "code"]


def test_processes_of_this_machine_need_the_code_alone(
    root: Path, workflow: type[WorkflowTask], clients: Clients
) -> None:
    assert list(reasons(call_of(workflow, backend__name="embedded"))) == ["code"]


def test_the_definition_of_the_reference_builder_has_the_settings_of_its_step() -> None:
    call = CommandCall(Aligned, (), {**AWS, "set": ["steps.reference.memory_mb=99"]})
    assert resources(wanted_definitions(call)["reference"])[1] == 99
