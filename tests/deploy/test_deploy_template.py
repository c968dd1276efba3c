"""The template itself: that it is clean, that rights are as narrow as AWS lets them be, that data are safe."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email import message_from_string
from functools import cache
from pathlib import Path
from typing import Any

import cfnlint.decode
import pytest
from botocore import session
from cfnlint.api import lint
from cfnlint.config import ManualArgs

from batch_pipeline.backends.payload import LAST_TAG
from batch_pipeline.config import known_keys
from batch_pipeline.deploy.infrastructure import TEMPLATE, parameter_names
from batch_pipeline.wire import layout

pytestmark = pytest.mark.moto

#: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
MOST_BYTES = 51_200

#: Statements that name no resource, with AWS's reason. In the service authorization reference, these actions have an
#: empty column of resource types: https://docs.aws.amazon.com/service-authorization/latest/reference/
ARGUED = {
    ("InstancePolicy", "FindTheService"): {"ecs:DiscoverPollEndpoint", "ec2:DescribeTags"},
    ("PullPolicy", "SignInToTheRegistry"): {"ecr:GetAuthorizationToken"},
    ("ImagePolicy", "SignInToTheRegistry"): {"ecr:GetAuthorizationToken"},
    **{
        (policy, "LookAtBatch"): {
            "batch:DescribeComputeEnvironments",
            "batch:DescribeJobDefinitions",
            "batch:DescribeJobQueues",
            "batch:DescribeJobs",
            "batch:ListConsumableResources",
            "batch:ListJobs",
        }
        for policy in ("DriverPolicy", "SubmitterPolicy")
    },
    **{(policy, "LookAtMachines"): {"ec2:DescribeInstanceTypes"} for policy in ("DriverPolicy", "SubmitterPolicy")},
}
#: Services whose ARNs here end in a `*` that spans more than this stack's own things, and why it must.
ARGUED_KINDS = {
    "consumable-resource/batch-pipeline-*": "widths are named after runs and steps",
    "cluster/*": "Batch chooses the name of the cluster",
    "container-instance/*": "the service chooses the id",
    "job-definition/*": "definitions are named after pipelines and their content",
    "job/*": "the service chooses the id",
    "log-group:*": "a listing of groups is granted for all or for none",
}


@cache
def _template() -> Mapping[str, Any]:
    template, problems = cfnlint.decode.decode(str(TEMPLATE))
    assert not problems
    assert template is not None
    return json.loads(json.dumps(template))  # type: ignore[no-any-return]


def _resources() -> dict[str, dict[str, Any]]:
    resources: dict[str, dict[str, Any]] = {}
    for name, resource in _template()["Resources"].items():
        resources |= resource[2] if name.startswith("Fn::ForEach::") else {name: resource}
    return resources


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement of one policy."""

    owner: str
    #: Whether it says who may take a role.
    is_trust: bool
    body: Mapping[str, Any]

    @property
    def sid(self) -> str:
        return str(self.body.get("Sid", ""))

    @property
    def actions(self) -> list[str]:
        return _listed(self.body["Action"])

    @property
    def resources(self) -> list[str]:
        return [_text(item) for item in _listed(self.body.get("Resource", []))]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    """An ARN with its placeholders."""
    if isinstance(value, dict):
        return str(value.get("Fn::Sub") or value.get("Ref") or ".".join(value.get("Fn::GetAtt", ())))
    return str(value)


def _statements() -> Iterator[Statement]:
    for name, resource in _resources().items():
        yield from _in(name, resource.get("Properties", {}), is_trust=False)


def _in(owner: str, value: Any, *, is_trust: bool) -> Iterator[Statement]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "Statement":
                yield from (Statement(owner=owner, is_trust=is_trust, body=item) for item in _listed(inner))
            else:
                yield from _in(owner, inner, is_trust=is_trust or key == "AssumeRolePolicyDocument")
    elif isinstance(value, list):
        for inner in value:
            yield from _in(owner, inner, is_trust=is_trust)


def _allowing() -> list[Statement]:
    found = [item for item in _statements() if item.body["Effect"] == "Allow"]
    assert len(found) > 25
    return found


def test_the_linter_finds_nothing() -> None:
    """By the rules and schemas that come with it; it asks nobody."""
    text = TEMPLATE.read_text()
    found = lint(text, config=ManualArgs(regions=["us-east-1", "eu-west-1"]))
    assert [f"{match.linenumber}: {match.rule.id} {match.message}" for match in found] == []
    wrong = text.replace("Type: AWS::Batch::JobQueue", "Type: AWS::Batch::JobQeue", 1)
    assert lint(wrong, config=ManualArgs(regions=["us-east-1"]))


def test_it_is_the_file_of_the_repository_and_fits_into_a_request(root: Path) -> None:
    assert TEMPLATE.read_bytes() == (root / "infrastructure" / "batch_pipeline.yaml").read_bytes()
    assert TEMPLATE.stat().st_size < MOST_BYTES


def test_the_names_of_the_parameters_are_read_without_a_parser() -> None:
    assert parameter_names(TEMPLATE.read_text()) == tuple(_template()["Parameters"])


def test_the_outputs_name_settings_that_there_are() -> None:
    named = re.findall(r"\b(?:backend|store|aws|deploy)\.\w+", json.dumps(_template()["Outputs"]))
    assert len(named) == 8
    assert set(named) <= set(known_keys())


# Rights.


def test_no_action_is_a_pattern() -> None:
    assert [(item.owner, action) for item in _allowing() for action in item.actions if "*" in action] == []


def test_every_right_without_a_resource_is_one_that_aws_has_none_for() -> None:
    open_ones = {(item.owner, item.sid): set(item.actions) for item in _allowing() if "*" in item.resources}
    assert open_ones == ARGUED


def test_patterns_stand_for_our_own_things_or_are_argued() -> None:
    for item in _allowing():
        for resource in item.resources:
            if "*" not in resource or resource == "*":
                continue
            tail = re.sub(r"\$\{AWS::\w+\}", "", resource).split(":", 5)[5]
            ours = "${AWS::StackName}" in resource or tail.startswith("${BucketName}/${KeyPrefix}")
            assert ours or tail in ARGUED_KINDS, (item.owner, resource)


def test_nobody_grants_to_everybody() -> None:
    for item in _allowing():
        assert not {"NotAction", "NotResource", "NotPrincipal"} & item.body.keys()
        assert "*" not in _listed(item.body.get("Principal", ""))


def test_roles_are_taken_by_their_service_in_this_account_only() -> None:
    trusts = {item.owner: item for item in _allowing() if item.is_trust}
    services = {
        owner: _listed(item.body["Principal"]["Service"])
        for owner, item in trusts.items()
        if "Service" in item.body["Principal"]
    }
    assert services == {
        "InstanceRole": ["ec2.amazonaws.com"],
        "JobRole": ["ecs-tasks.amazonaws.com"],
        "DriverRole": ["ecs-tasks.amazonaws.com"],
        "ExecutionRole": ["ecs-tasks.amazonaws.com"],
        "EventRole": ["events.amazonaws.com", "firehose.amazonaws.com"],
    }
    for owner in ("JobRole", "DriverRole", "ExecutionRole", "EventRole"):
        assert trusts[owner].body["Condition"]["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}
    assert set(trusts) == {*services, "SubmitterRole"}


def test_roles_are_passed_to_containers_only_and_a_driver_passes_on_none_that_may_submit() -> None:
    passing = {item.owner: item for item in _allowing() if "iam:PassRole" in item.actions}
    assert {owner: item.resources for owner, item in passing.items()} == {
        "DriverPolicy": ["JobRole.Arn", "ExecutionRole.Arn"],
        "SubmitterPolicy": ["JobRole.Arn", "ExecutionRole.Arn", "DriverRole.Arn"],
    }
    for item in passing.values():
        assert item.body["Condition"] == {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}


def test_nobody_but_submitter_and_driver_touches_batch_and_nobody_touches_rights() -> None:
    assert {item.owner for item in _allowing() for action in item.actions if action.startswith("batch:")} == {
        "DriverPolicy",
        "SubmitterPolicy",
    }
    iam = {action for item in _allowing() for action in item.actions if action.startswith("iam:")}
    assert iam == {"iam:PassRole", "iam:GetRole"}


def _operations(root: Path) -> set[str]:
    """The operations that the client's side calls: first arguments that are names of them."""
    services = {
        operation: service
        for service in ("ec2", "batch", "logs", "iam", "sts", "ecr")
        for operation in session.get_session().get_service_model(service).operation_names
    }
    found = set()
    for file in (root / "batch_pipeline" / "backends").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = str(node.args[0].value).title().replace("_", "")
                if name in services and str(node.args[0].value).islower() and "_" in str(node.args[0].value):
                    found.add(f"{services[name]}:{name}")
    return found


def test_the_submitter_may_do_what_the_client_does(root: Path) -> None:
    called = _operations(root)
    assert {"batch:DescribeJobs", "batch:RegisterJobDefinition", "logs:GetLogEvents", "iam:GetRole"} <= called
    # Who one is may always be asked. Only the embedded Batch's queues are made. IAM knows no plural of the action.
    needed = called - {"sts:GetCallerIdentity", "batch:CreateJobQueue", "batch:TerminateJobs"}
    granted = {action for item in _allowing() if item.owner == "SubmitterPolicy" for action in item.actions}
    assert needed - granted == set()


def test_a_driver_may_do_a_part_of_what_the_submitter_may_and_no_step_is_one() -> None:
    granted = {
        owner: {
            (action, text)
            for item in _allowing()
            if item.owner == owner
            for action in item.actions
            for text in item.resources
        }
        for owner in ("DriverPolicy", "SubmitterPolicy")
    }
    assert granted["DriverPolicy"] < granted["SubmitterPolicy"]
    assert {"batch:SubmitJob", "batch:RegisterJobDefinition", "batch:TerminateJob", "s3:DeleteObject"} <= {
        action for action, _ in granted["DriverPolicy"]
    }
    assert "batch:DeregisterJobDefinition" not in {action for action, _ in granted["DriverPolicy"]}
    assert _resources()["DriverPolicy"]["Properties"]["Roles"] == [{"Ref": "DriverRole"}]


def test_pools_may_be_used_as_the_store_in_dynamodb_uses_them(root: Path) -> None:
    source = "".join(file.read_text() for file in (root / "batch_pipeline/pool/stores/dynamodb").glob("*.py"))
    words = {word.title().replace("_", "") for word in re.findall(r"\b[a-z]+(?:_[a-z]+)*\b", source)}
    names = session.get_session().get_service_model("dynamodb").operation_names
    called = {f"dynamodb:{name}" for name in names if name in words}
    granted: dict[str, set[str]] = {"PoolPolicy": set(), "PoolOwnerPolicy": set()}
    for item in _allowing():
        if any(action.startswith("dynamodb:") for action in item.actions):
            granted[item.owner] |= set(item.actions)
    assert granted["PoolPolicy"] | granted["PoolOwnerPolicy"] == called
    whole = {"dynamodb:CreateTable", "dynamodb:DescribeTable", "dynamodb:Scan"}
    assert granted["PoolOwnerPolicy"] == whole
    resources = _resources()
    assert resources["PoolPolicy"]["Properties"]["Roles"] == [{"Ref": "JobRole"}, {"Ref": "SubmitterRole"}]
    assert resources["PoolOwnerPolicy"]["Properties"]["Roles"] == [{"Ref": "SubmitterRole"}]


def test_jobs_write_what_jobs_write() -> None:
    """Their keys are those of the layout."""
    mine = [item for item in _allowing() if item.owner == "JobPolicy"]
    written = {
        resource.partition("${KeyPrefix}")[2]
        for item in mine
        if "s3:PutObject" in item.actions
        for resource in item.resources
    }
    keys = [
        layout.result("s", "a", "f"),
        layout.result("s", layout.COHORT, "f"),
        layout.reference("r", "f"),
        layout.receipt("s", "a", "0"),
        layout.log("r", "s", "a", 1),
        layout.untrue("r", "s", "a"),
    ]
    assert written == {f"{key.split('/')[0]}/*" for key in keys}
    deleted = [item.resources for item in mine if "s3:DeleteObject" in item.actions]
    store = "arn:${AWS::Partition}:s3:::${BucketName}/${KeyPrefix}"
    assert deleted == [[f"{store}{folder}/*" for folder in ("results", "cohort", "references", "receipts")]]


def test_only_the_machines_and_the_starter_of_containers_pull_images() -> None:
    pulling = [item for item in _allowing() if item.sid == "PullOurImages"]
    assert [item.owner for item in pulling] == ["PullPolicy"]
    roles = _resources()["PullPolicy"]["Properties"]["Roles"]
    assert roles == [{"Ref": "InstanceRole"}, {"Ref": "ExecutionRole"}]


# Data and machines.


def test_the_bucket_is_encrypted_closed_and_outlives_the_stack() -> None:
    bucket = _resources()["Bucket"]
    properties = bucket["Properties"]
    assert (bucket["DeletionPolicy"], bucket["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")
    assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(properties["PublicAccessBlockConfiguration"]) == 4
    _, with_key, without = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"][0]["Fn::If"]
    assert with_key["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    assert with_key["BucketKeyEnabled"] is True
    assert without["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    rules = {rule["Id"]: rule for rule in properties["LifecycleConfiguration"]["Rules"]}
    assert set(rules) == {"scratch", "logs", "uploads", "versions"}
    assert all(rule["Status"] == "Enabled" for rule in rules.values())


def test_the_bucket_is_reached_by_modern_tls_only() -> None:
    denied = {item.sid: item.body for item in _statements() if item.body["Effect"] == "Deny"}
    assert {sid: body["Condition"] for sid, body in denied.items()} == {
        "OnlyEncryptedTransport": {"Bool": {"aws:SecureTransport": "false"}},
        "OnlyModernTransport": {"NumericLessThan": {"s3:TlsVersion": "1.2"}},
    }
    for body in denied.values():
        assert (body["Principal"], body["Action"], len(body["Resource"])) == ("*", "s3:*", 2)


def test_machines_demand_imdsv2_and_encrypt_their_disks() -> None:
    data = _resources()["LaunchTemplate"]["Properties"]["LaunchTemplateData"]
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    disks = [item["Ebs"] for item in data["BlockDeviceMappings"]]
    assert [(disk["Encrypted"], disk["DeleteOnTermination"], disk["VolumeType"]) for disk in disks] == [
        (True, True, "gp3"),
        (True, True, "gp3"),
    ]
    assert disks[1]["VolumeSize"] == {"Ref": "ScratchGiB"}


def test_nothing_comes_in() -> None:
    properties = _resources()["SecurityGroup"]["Properties"]
    assert "SecurityGroupIngress" not in properties
    assert [(rule["FromPort"], rule["ToPort"]) for rule in properties["SecurityGroupEgress"]] == [(443, 443)]


def test_no_machine_stays_when_there_is_no_work() -> None:
    environments = [item for item in _resources().values() if item["Type"] == "AWS::Batch::ComputeEnvironment"]
    assert len(environments) == 4
    resources = [item["Properties"]["ComputeResources"] for item in environments]
    assert {each.get("MinvCpus", 0) for each in resources} == {0}
    # Those that are machines stay for a while, as long as is said; Fargate knows no such thing.
    delays = {each["Type"]: each.get("ScalingPolicy") for each in resources}
    delay = {"MinScaleDownDelayMinutes": {"Ref": "ScaleDownDelayMinutes"}}
    assert delays == {"SPOT": delay, "EC2": delay, "FARGATE": None, "FARGATE_SPOT": None}
    minutes = _template()["Parameters"]["ScaleDownDelayMinutes"]["AllowedValues"]
    assert all(each == 0 or 20 <= each <= 10_080 for each in minutes)


# The script that a machine runs at its start.


@cache
def _script() -> str:
    """The one part of the MIME archive that Batch demands."""
    text = _resources()["LaunchTemplate"]["Properties"]["LaunchTemplateData"]["UserData"]["Fn::Base64"]
    message = message_from_string(text)
    assert message.get_content_type() == "multipart/mixed"
    parts: Any = message.get_payload()
    (part,) = parts
    assert part.get_content_type() == "text/x-shellscript"
    return str(part.get_payload())


def _machine(folder: Path, disks: str) -> dict[str, str]:
    """A machine's commands, written down instead of done. `disks`: name, type, size, children, where it is mounted."""
    commands = folder / "bin"
    commands.mkdir()
    (folder / "disks").write_text(disks)
    programs = {
        "lsblk": f"""case "$1" in
          -bdnpo) awk '{{print $1, $2, $3}}' {folder}/disks;;
          -no) awk -v n="$3" -v w="$2" '$1 == n {{if (w == "NAME") for (i = 0; i < $4; i++) print n;
            else print ($5 == "-" ? "" : $5)}}' {folder}/disks;;
        esac""",
        "blkid": "exit 2",
        **{name: f'echo "{name} $*" >> {folder}/done' for name in ("mkfs.xfs", "mount", "chmod", "shutdown", "mkdir")},
    }
    for name, body in programs.items():
        (commands / name).write_text(f"#!/bin/bash\n{body}\n")
        (commands / name).chmod(0o755)
    return {"PATH": f"{commands}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("disks", "chosen"),
    [
        ("/dev/nvme0n1 disk 60 4 -\n/dev/nvme1n1 disk 500 1 -\n", "/dev/nvme1n1"),
        ("/dev/xvda disk 900 2 -\n/dev/xvdb disk 500 1 -\n/dev/xvdc disk 700 1 -\n", "/dev/xvdc"),
        ("/dev/xvda disk 60 2 -\n/dev/sdb disk 900 1 /data\n/dev/sr0 rom 950 1 -\n/dev/sdc disk 500 1 -\n", "/dev/sdc"),
    ],
)
def test_the_largest_unused_disk_is_mounted_for_scratch(disks: str, chosen: str, tmp_path: Path) -> None:
    script = _script().replace("/etc/ecs/ecs.config", str(tmp_path / "ecs.config"))
    subprocess.run(["bash", "-c", script], env=_machine(tmp_path, disks), check=True, timeout=60)
    assert (tmp_path / "done").read_text().splitlines() == [
        f"mkfs.xfs -q {chosen}",
        "mkdir -p /docker_scratch",
        f"mount -o noatime {chosen} /docker_scratch",
        "chmod 1777 /docker_scratch",
    ]
    assert (tmp_path / "ecs.config").read_text() == "ECS_IMAGE_PULL_BEHAVIOR=prefer-cached\n"


def test_a_machine_without_scratch_takes_no_jobs(tmp_path: Path) -> None:
    script = _script().replace("/dev/console", str(tmp_path / "console"))
    environment = _machine(tmp_path, "/dev/nvme0n1 disk 60 4 -\n")
    ended = subprocess.run(["bash", "-c", script], env=environment, check=False, timeout=60)
    assert ended.returncode != 0
    assert (tmp_path / "done").read_text() == "shutdown -h now\n"
    assert "no scratch volume" in (tmp_path / "console").read_text()


# What docs/aws.md says of it.


def test_every_right_and_parameter_is_documented(root: Path) -> None:
    page = (root / "docs" / "aws.md").read_text()
    rights = set(re.findall(r"`((?:s3|ecr|ecs|ec2|batch|iam|kms|logs|firehose|sts|dynamodb|sns):\w+)`", page))
    granted = {action for item in _allowing() for action in item.actions}
    assert rights == granted
    table = page.partition("| parameter | default |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[1:] if line))) == set(
        _template()["Parameters"]
    )


def test_the_end_of_runs_is_told_by_whole_jobs_that_are_the_last_of_theirs() -> None:
    resources = _resources()
    rule = resources["EndRule"]
    assert rule["Condition"] == "Notifies"
    detail = rule["Properties"]["EventPattern"]["detail"]
    assert detail["tags"] == {LAST_TAG: ["yes"]}
    assert detail["arrayProperties"] == {"index": [{"exists": False}]}, "no mail a child"
    assert detail["status"] == ["SUCCEEDED", "FAILED"]
    (target,) = rule["Properties"]["Targets"]
    assert target["Arn"] == {"Fn::If": ["MakesTopic", {"Ref": "EndTopic"}, {"Ref": "NotifyTopicArn"}]}
    assert resources["EndTopic"]["Condition"] == resources["EndTopicPolicy"]["Condition"] == "MakesTopic"
    (publishing,) = (item for item in _allowing() if item.owner == "EndTopicPolicy")
    assert (publishing.actions, publishing.resources) == (["sns:Publish"], ["EndTopic"])
    assert publishing.body["Principal"] == {"Service": "events.amazonaws.com"}
    text = TEMPLATE.read_text()
    assert text.count("!Ref NotifyEmail") == 3, "the address goes to the topic and to nothing else"
