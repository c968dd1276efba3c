"""The verb, on AWS's stand-in and on the embedded Batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from batch_pipeline import Input, Output, Reference, Step, WorkflowTask
from batch_pipeline.backends.aws_clients import Clients, attached_maker
from batch_pipeline.backends.definitions import configured_definitions
from batch_pipeline.cli import run_command_line
from batch_pipeline.config import load_settings
from batch_pipeline.deploy import definitions as deployed
from batch_pipeline.deploy.definitions import deploy_definitions, names_in_use, retire, unused
from batch_pipeline.deploy.references import verify_references
from batch_pipeline.localbatch.testing import VirtualBatch
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.record_writing import write_definitions
from batch_pipeline.wire import layout
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.errors import StoreFailed
from batch_pipeline.wire.receipt import FileRecord, Receipt, Usage
from batch_pipeline.wire.store import Store, open_store

pytestmark = [pytest.mark.moto, pytest.mark.filterwarnings("ignore:Tried to parse")]


class Upper(Step):
    """Makes letters large."""

    image = "registry.example/upper@sha256:0"
    text = Input()
    table = Reference("{reference}.txt")
    upper = Output("{sample}.txt")


class Count(Step):
    """Counts lines."""

    image = "registry.example/count@sha256:0"
    text = Input()
    count = Output("count.txt")


class Letters(WorkflowTask):
    """Two steps."""

    def workflow(self) -> None:
        upper, count = self.new_task("upper", Upper), self.new_task("count", Count)
        upper.in_text = self.source("{sample}.txt")
        count.in_text = upper.out_upper


Deploy = Callable[..., Any]


@pytest.fixture
def deploy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Deploy:
    """`deploy("code", "--json")` -> exit code, stdout, stderr; in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str, workflow: type[WorkflowTask] | None = Letters) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run_command_line(workflow, ["deploy", *args])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> Clients:
    """The embedded Batch in this process, as the command's backend."""
    clients = Clients(attached_maker(VirtualBatch().attach))
    monkeypatch.setattr(deployed, "batch_clients", lambda settings: clients)
    return clients


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The store that the command takes when nothing is said."""
    return open_store(str(tmp_path / "store" / "default"), create=True)


STACK = ("--stack", "lab")


# The infrastructure.


def test_a_stack_is_made_once_and_ends_with_its_settings(aws: None, deploy: Deploy) -> None:
    code, out, _ = deploy("infrastructure", *STACK, "--yes", "--write-settings")
    assert (code, out.splitlines()[0]) == (0, "Stack lab is made.")
    settings = load_settings(environ={})
    assert (settings.backend.name, settings.backend.queue) == ("aws", "lab-spot")
    code, out, err = deploy("infrastructure", "--yes", "--write-settings")
    assert (code, out.splitlines()[0]) == (0, "Stack lab is up to date.")
    assert "stays as it is" in err


def test_without_a_pipeline_there_is_the_base_alone(aws: None, deploy: Deploy) -> None:
    code, out, _ = deploy("infrastructure", *STACK, "--yes", "--json", workflow=None)
    told = json.loads(out)["infrastructure"]
    assert (code, told["status"]) == (0, "CREATE_COMPLETE")
    assert told["parameters"]["Repositories"] == {"from": "", "to": "base"}
    assert told["outputs"]["QueueName"] == "lab-spot"


def test_nothing_is_made_unasked(aws: None, deploy: Deploy, tmp_path: Path) -> None:
    code, out, err = deploy("infrastructure", *STACK)
    assert (code, out) == (2, "")
    assert "add Queue (AWS::Batch::JobQueue)" in err
    assert "give --yes" in err
    assert boto3.client("cloudformation").describe_stacks()["Stacks"] == []


def test_a_no_makes_nothing(aws: None, deploy: Deploy, terminal: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: "n")
    code, _, err = deploy("infrastructure", *STACK)
    assert (code, err.splitlines()[-1]) == (130, "Interrupted.")
    assert boto3.client("cloudformation").describe_stacks()["Stacks"] == []


def test_a_difference_is_shown_and_not_made(aws: None, deploy: Deploy) -> None:
    deploy("infrastructure", *STACK, "--yes")
    code, out, _ = deploy("infrastructure", *STACK, "--diff", "--parameter", "MaxVcpus=64")
    assert code == 0
    assert "parameter MaxVcpus: 256 -> 64" in out
    assert out.splitlines()[-1] == "Stack lab would be changed; nothing was done."
    told = boto3.client("cloudformation").describe_stacks(StackName="lab")["Stacks"][0]["Parameters"]
    assert {"ParameterKey": "MaxVcpus", "ParameterValue": "256"} in told


def test_deleting_asks_and_keeps_the_bucket(aws: None, deploy: Deploy) -> None:
    assert deploy("infrastructure", *STACK, "--delete")[1] == "There is no stack lab.\n"
    ec2 = boto3.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.1.0.0/24")["Subnet"]["SubnetId"]
    network = ("--parameter", f"VpcId={vpc}", "--parameter", f"SubnetIds={subnet}")
    deploy("infrastructure", *STACK, "--yes", *network)
    assert "would be deleted" in deploy("infrastructure", *STACK, "--delete", "--dry-run")[1]
    code, _, err = deploy("infrastructure", *STACK, "--delete")
    assert (code, "give --yes" in err) == (2, True)
    assert len(boto3.client("cloudformation").describe_stacks()["Stacks"]) == 1
    code, out, _ = deploy("infrastructure", *STACK, "--delete", "--yes")
    assert (code, out) == (0, "Stack lab is deleted. Bucket lab-123456789012 is kept.\n")
    assert boto3.client("cloudformation").describe_stacks()["Stacks"] == []


def test_on_aws_one_command_does_all_and_later_parts_use_what_the_first_made(aws: None, deploy: Deploy) -> None:
    options = (*STACK, "--backend", "aws", "--store", "memory://deploy-all", "--yes", "--json")
    code, out, _ = deploy(*options)
    told = json.loads(out)
    assert (code, list(told)) == (0, ["infrastructure", "definitions", "code", "references"])
    name = told["definitions"][0]["definition"].partition(":")[0]
    (made,) = boto3.client("batch").describe_job_definitions(jobDefinitionName=name)["jobDefinitions"]
    outputs = told["infrastructure"]["outputs"]
    assert made["containerProperties"]["jobRoleArn"] == outputs["JobRoleArn"]
    assert made["containerProperties"]["logConfiguration"]["options"]["awslogs-group"] == outputs["LogGroupName"]
    again = json.loads(deploy(*options)[1])
    assert (again["infrastructure"]["changes"], again["code"]["new"]) == ([], False)


# Job definitions.


def test_definitions_are_registered_once(deploy: Deploy, batch: Clients) -> None:
    code, out, _ = deploy("definitions", "--dry-run", "--json")
    assert [item["new"] for item in json.loads(out)["definitions"]] == [True, True]
    assert batch.calls["RegisterJobDefinition"] == 0
    code, out, _ = deploy("definitions")
    assert code == 0
    assert [line.rpartition(", ")[2] for line in out.splitlines()] == ["registered", "registered"]
    assert batch.calls["RegisterJobDefinition"] == 2
    code, out, _ = deploy("definitions", "--json")
    told = json.loads(out)["definitions"]
    assert [(item["step"], item["definition"][-2:], item["new"]) for item in told] == [
        ("upper", ":1", False),
        ("count", ":1", False),
    ]
    assert batch.calls["RegisterJobDefinition"] == 2


def test_pruning_takes_what_nobody_needs(deploy: Deploy, batch: Clients, store: Store) -> None:
    graph = Graph.of(Letters)
    old = configured_definitions(graph, load_settings({"backend.attempts": 2}, environ={}))
    live = configured_definitions(graph, load_settings({"backend.attempts": 4}, environ={}))
    other = configured_definitions(graph, load_settings(environ={}), pipeline="Other")
    settings = load_settings(environ={})
    for definitions in (old, live, other):
        deploy_definitions(definitions, settings, batch)
    deploy("definitions")
    store.put_json(layout.live("R1"), {})
    names = [str(item["jobDefinitionName"]) for item in live.values()]
    write_definitions(store, "R1", live, {name: f"{name}:1" for name in names})
    stale = sorted(f"{item['jobDefinitionName']}:1" for item in old.values())
    code, out, _ = deploy("prune", "--dry-run", "--json")
    assert (code, json.loads(out)["prune"]) == (0, stale)
    code, out, err = deploy("prune")
    assert (code, "give --yes" in err) == (2, True)
    assert batch.calls["DeregisterJobDefinition"] == 0
    code, out, _ = deploy("prune", "--yes")
    assert out.splitlines()[-1] == "Took 2 job definitions out of use."
    code, out, _ = deploy("prune", "--yes")
    assert out == "Nothing to prune: every job definition of Letters is in use.\n"
    active = {
        item["jobDefinitionName"] for item in batch.pages("describe_job_definitions", "jobDefinitions", status="ACTIVE")
    }
    assert active >= {*names, *(str(item["jobDefinitionName"]) for item in other.values())}


def test_a_live_run_that_does_not_say_what_it_uses_stops_pruning(deploy: Deploy, batch: Clients, store: Store) -> None:
    store.put_json(layout.live("R1"), {})
    code, _, err = deploy("prune", "--yes")
    assert (code, "Run R1 is live" in err) == (3, True)


def test_names_of_others_and_joins_in_use_are_left_alone(batch: Clients) -> None:
    graph, settings = Graph.of(Letters), load_settings(environ={})
    mine = configured_definitions(graph, settings)
    strange = {**mine["upper"], "jobDefinitionName": "upper-by-hand"}
    untagged = {key: value for key, value in mine["count"].items() if key != "tags"}
    deploy_definitions({"a": strange, "b": untagged}, settings, batch)
    assert unused(batch, "Letters", ()) == []
    assert any(name.startswith("batch-pipeline-join-") for name in names_in_use(mine))
    deploy_definitions(mine, settings, batch)
    assert unused(batch, "Letters", names_in_use(mine)) == []
    assert len(unused(batch, "Letters", ())) == 1  # count has the name of the untagged one, which came first


def test_every_page_is_read(batch: Clients) -> None:
    settings = load_settings(environ={})
    base = configured_definitions(Graph.of(Letters), settings)["count"]
    many = {f"s{i}": {**base, "jobDefinitionName": f"count-{i:012x}"} for i in range(230)}
    deploy_definitions(many, settings, batch)
    found = unused(batch, "Letters", ["count-000000000000"])
    assert len(found) == 229
    retire(batch, found)
    assert unused(batch, "Letters", ()) == ["count-000000000000:1"]


# Code and references.


def test_code_is_uploaded_once(deploy: Deploy, store: Store) -> None:
    code, out, _ = deploy("code", "--dry-run")
    assert (code, out.rstrip().endswith("would be uploaded")) == (0, True)
    assert list(store.keys("code")) == []
    assert deploy("code")[1].rstrip().endswith(" uploaded")
    code, out, _ = deploy("code", "--json")
    told = json.loads(out)["code"]
    assert (told["new"], list(store.keys("code"))) == (False, [layout.bundle(told["sha256"])])


def _receipt(store: Store, key: str, data: bytes) -> None:
    store.put(key, data)
    record = FileRecord(port="table", key=key, size_bytes=len(data), sha256=sha256_of_bytes(data))
    receipt = Receipt(
        run_id="R",
        step="reference",
        sample="built",
        fingerprint="0",
        attempt=1,
        started_at="",
        stopped_at="",
        outputs=(record,),
        usage=Usage(),
    )
    store.put_json(layout.receipt("reference", "built", "0"), receipt.to_json())


def test_references_are_held_against_what_was_recorded(store: Store) -> None:
    _receipt(store, layout.reference("built", "a.txt"), b"a")
    store.put(layout.reference("brought", "b.txt"), b"b")
    assert [item.vouched_by for item in verify_references(store, "reference", dry_run=True)] == ["", "receipt"]
    assert [item.vouched_by for item in verify_references(store, "reference")] == ["", "receipt"]
    again = verify_references(store, "reference")
    assert [(item.name, item.files, item.vouched_by) for item in again] == [
        ("brought", 1, "SHA256SUMS"),
        ("built", 1, "receipt"),
    ]
    assert not [problem for item in again for problem in item.problems]
    store.put(layout.reference("built", "a.txt"), b"A")
    store.delete([layout.reference("brought", "b.txt")])
    told = {item.name: item.problems[0] for item in verify_references(store, "reference")}
    assert "b.txt is gone" in told["brought"]
    assert "a.txt is not what it was" in told["built"]


def test_a_damaged_record_of_checksums_is_told(store: Store) -> None:
    store.put(layout.reference("r", "a"), b"a")
    store.put(layout.reference("r", layout.CHECKSUMS), b"nonsense\n")
    with pytest.raises(StoreFailed, match='has the line "nonsense"'):
        verify_references(store)


def test_a_wrong_reference_fails_the_command(deploy: Deploy, store: Store) -> None:
    store.put(layout.reference("r", "a"), b"a")
    assert deploy("references")[0] == 0
    store.put(layout.reference("r", "a"), b"b")
    code, out, _ = deploy("references", "--json")
    assert (code, len(json.loads(out)["references"][0]["problems"])) == (1, 1)


def test_without_a_part_all_is_done_that_applies(deploy: Deploy, batch: Clients, store: Store) -> None:
    code, out, _ = deploy("--json")
    assert (code, list(json.loads(out))) == (0, ["definitions", "code", "references"])


# What cannot be.


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("code", "--diff"), "--diff and --delete are for the infrastructure"),
        (("definitions", "upper"), "Names go with images only"),
        (("infrastructure", "--stack", "lab", "--parameter", "MaxVcpus"), "is not NAME=VALUE"),
    ],
)
def test_what_makes_no_sense_is_refused(args: tuple[str, ...], sentence: str, aws: None, deploy: Deploy) -> None:
    code, _, err = deploy(*args)
    assert (code, sentence in err) == (2, True)
