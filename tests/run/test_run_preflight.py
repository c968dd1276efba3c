"""What is looked at before a run: decided from AWS's answers, which moto gives; on the embedded Batch without any."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest

from batch_pipeline.backends.account import Account, NotVisible
from batch_pipeline.backends.aws_clients import Clients, attached_maker, aws_maker
from batch_pipeline.backends.batch import BatchBackend
from batch_pipeline.backends.definitions import NO_IMAGE
from batch_pipeline.config import Settings, load_settings
from batch_pipeline.localbatch.testing import VirtualBatch
from batch_pipeline.run.driver import Driver
from batch_pipeline.run.preflight import Finding, account_findings, preflight, require_ready
from batch_pipeline.wire.errors import NotReady
from tests.run.small import new_store, request_of

pytestmark = pytest.mark.moto

REGION = "eu-west-1"
ACCOUNT = "123456789012"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ecs-tasks.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


def settings_of(**flags: Any) -> Settings:
    told = {"backend.name": "aws", "backend.queue": "mixed", "aws.region": REGION, **flags}
    return load_settings(told, environ={}, folder=Path("/nonexistent"))


@dataclass(kw_only=True)
class Lab:
    """An AWS account on moto, in which everything that a run needs is there."""

    job_role: str = ""
    images: dict[str, str] = field(default_factory=dict)

    def client(self, service: str) -> Any:
        return boto3.client(service, region_name=REGION)  # type: ignore[call-overload]

    def definitions(self, **changes: Any) -> dict[str, dict[str, Any]]:
        return {step: self.definition(image, **changes) for step, image in self.images.items()}

    def definition(
        self, image: str, *, vcpus: str = "1", memory: str = "1024", fargate: bool = False, **container: Any
    ) -> dict[str, Any]:
        needs = [{"type": "VCPU", "value": vcpus}, {"type": "MEMORY", "value": memory}]
        properties = {"image": image, "jobRoleArn": self.job_role, "resourceRequirements": needs, **container}
        return {"containerProperties": properties} | ({"platformCapabilities": ["FARGATE"]} if fargate else {})


@pytest.fixture(scope="module")
def made_once() -> Iterator[Lab]:
    """What takes time to make; no test changes it but for switching things off."""
    from moto import mock_aws

    with mock_aws(config={"batch": {"use_docker": False}}):
        made = Lab()
        iam, ecr = made.client("iam"), made.client("ecr")
        made.job_role = iam.create_role(RoleName="jobs", AssumeRolePolicyDocument=json.dumps(TRUST))["Role"]["Arn"]
        iam.create_role(RoleName="strangers", AssumeRolePolicyDocument=json.dumps({**TRUST, "Statement": []}))
        instances = iam.create_instance_profile(InstanceProfileName="hosts")["InstanceProfile"]["Arn"]
        ec2 = made.client("ec2")
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
        group = ec2.create_security_group(GroupName="jobs", Description="jobs", VpcId=vpc)["GroupId"]
        batch = made.client("batch")
        batch.create_compute_environment(
            computeEnvironmentName="hosts",
            type="MANAGED",
            state="ENABLED",
            serviceRole=made.job_role,
            computeResources={
                "type": "EC2",
                "minvCpus": 0,
                "maxvCpus": 16,
                "instanceTypes": ["m5.large", "c5"],
                "subnets": [subnet],
                "securityGroupIds": [group],
                "instanceRole": instances,
            },
        )
        batch.create_job_queue(
            jobQueueName="mixed",
            state="ENABLED",
            priority=1,
            computeEnvironmentOrder=[{"order": 1, "computeEnvironment": "hosts"}],
        )
        for step in ("upper", "count", "total"):
            ecr.create_repository(repositoryName=f"lab/{step}")
            manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": [], "config": {"digest": f"sha256:{step}"}}
            ecr.put_image(repositoryName=f"lab/{step}", imageManifest=json.dumps(manifest), imageTag="v1")
            made.images[step] = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/lab/{step}:v1"
        yield made


@pytest.fixture
def lab(made_once: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    batch = made_once.client("batch")
    batch.update_job_queue(jobQueue="mixed", state="ENABLED")
    batch.update_compute_environment(computeEnvironment="hosts", state="ENABLED")
    return made_once


@cache
def clients() -> Clients:
    """Made once: botocore's model of EC2 takes half a second to read."""
    return Clients(aws_maker(settings_of().aws))


def findings(
    definitions: Mapping[str, Mapping[str, Any]], *, queues: Sequence[str] = (), **flags: Any
) -> tuple[list[Finding], BatchBackend]:
    backend = BatchBackend(settings_of(**flags), clients=clients())
    backend.calls.clear()
    return account_findings(backend.account, settings_of(**flags), definitions, queue_names=queues), backend


def wrong(
    definitions: Mapping[str, Mapping[str, Any]], *, queues: Sequence[str] = (), **flags: Any
) -> list[tuple[str, str]]:
    """Check and words of what is not well."""
    found, _ = findings(definitions, queues=queues, **flags)
    assert all(bool(finding.remedy) for finding in found if not finding.ok)
    return [(finding.check, f"{finding.sentence} {finding.remedy}") for finding in found if not finding.ok]


# All is well.


def test_an_account_that_is_ready_is_found_so_in_a_dozen_calls(lab: Lab) -> None:
    found, backend = findings(lab.definitions(executionRoleArn=lab.job_role))
    assert [finding for finding in found if not finding.ok or "not checked" in finding.sentence] == []
    assert [finding.check for finding in found] == ["identity", "queue", "machines", "role", *["image"] * 3]
    assert f"account {ACCOUNT}" in found[0].sentence
    assert backend.calls == {
        "GetCallerIdentity": 1,
        "DescribeJobQueues": 1,
        "DescribeComputeEnvironments": 1,
        "DescribeInstanceTypes": 1,
        "GetRole": 1,
        "DescribeImages": 3,
    }


# Each thing that can be wrong.


def test_everything_that_is_wrong_is_told_at_once(lab: Lab) -> None:
    gone = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/lab/upper:v2"
    role = f"arn:aws:iam::{ACCOUNT}:role/gone"
    definition = lab.definition(gone, vcpus="17", jobRoleArn=role, logConfiguration={"options": {"awslogs-group": "g"}})
    found = wrong({"upper": definition}, **{"backend.on_demand_queue": "nowhere"})
    assert [check for check, _ in found] == ["queue", "machines", "role", "image", "log group"]
    words = dict(found)
    assert "no job queue nowhere" in words["queue"]
    assert "hosts has 16 vCPUs at the most" in words["machines"]
    assert f"The role {role} of step upper is not there" in words["role"]
    assert f"The image {gone} of step upper is not in its repository" in words["image"]
    assert "aws logs create-log-group --log-group-name g" in words["log group"]


def test_a_disabled_queue_is_found(lab: Lab) -> None:
    lab.client("batch").update_job_queue(jobQueue="mixed", state="DISABLED")
    ((check, words),) = wrong({})
    assert check == "queue"
    assert "--job-queue mixed --state ENABLED" in words


def test_a_disabled_environment_is_found(lab: Lab) -> None:
    lab.client("batch").update_compute_environment(computeEnvironment="hosts", state="DISABLED")
    ((check, words),) = wrong({})
    assert (check, "hosts of queue mixed is disabled" in words) == ("queue", True)


@pytest.mark.parametrize(
    ("vcpus", "memory", "fits"),
    [
        ("2", "4000", True),
        ("16", "31000", True),
        # c5.9xlarge and larger are in the family, but the environment takes no more vCPUs.
        ("17", "1024", False),
        ("2", "500000", False),
    ],
)
def test_a_step_fits_the_machines_of_the_queue_or_not(vcpus: str, memory: str, fits: bool, lab: Lab) -> None:
    found = wrong({"upper": lab.definition(lab.images["upper"], vcpus=vcpus, memory=memory)})
    assert [check for check, _ in found] == ([] if fits else ["machines"])


def test_steps_that_do_not_fit_for_one_reason_are_told_together(lab: Lab) -> None:
    ((_, words),) = wrong(lab.definitions(vcpus="17"))
    assert words.startswith("Step upper, count, total: A job of 17 vCPUs and 1,024 MiB fits no compute environment")


def test_a_fargate_definition_needs_its_own_queue_and_role(lab: Lab) -> None:
    found = wrong({"upper": lab.definition(lab.images["upper"], memory="2048", fargate=True)})
    assert [check for check, _ in found] == ["machines", "role"]
    assert "is EC2 and the job's definition is for FARGATE" in found[0][1]
    assert "names no execution role" in found[1][1]


def test_a_role_that_jobs_cannot_take_on_is_found(lab: Lab) -> None:
    arn = f"arn:aws:iam::{ACCOUNT}:role/strangers"
    ((check, words),) = wrong(lab.definitions(jobRoleArn=arn))
    assert check == "role"
    assert "of step upper, count, total cannot be taken on by jobs" in words


def test_a_role_of_another_account_is_found(lab: Lab) -> None:
    ((_, words),) = wrong(lab.definitions(jobRoleArn="arn:aws:iam::999999999999:role/jobs"))
    assert "is in another account" in words


def test_a_step_without_an_image_is_found(lab: Lab) -> None:
    ((_, words),) = wrong({"upper": lab.definition(NO_IMAGE)})
    assert "Step upper names no image" in words


@pytest.mark.parametrize(
    ("image", "there"),
    [
        (f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/lab/upper:v1", True),
        (f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/lab/upper@sha256:{'0' * 64}", False),
        (f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/lab/none:v1", False),
    ],
)
def test_images_are_looked_up_by_digest_or_tag(image: str, there: bool, lab: Lab) -> None:
    assert BatchBackend(settings_of(), clients=clients()).account.has_image(image) is there


def test_images_are_found_by_their_digest(lab: Lab) -> None:
    (listed,) = lab.client("ecr").list_images(repositoryName="lab/upper")["imageIds"]
    image = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/lab/upper@{listed['imageDigest']}"
    assert BatchBackend(settings_of(), clients=clients()).account.has_image(image)


@pytest.mark.parametrize("image", ["ubuntu:24.04", f"{ACCOUNT}.dkr.ecr.us-west-2.amazonaws.com/lab/upper:v1"])
def test_images_of_other_places_are_not_checked(image: str, lab: Lab) -> None:
    found, _ = findings({"upper": lab.definition(image)})
    assert all(finding.ok for finding in found)
    assert "not checked" in found[-1].sentence


def test_a_log_group_that_is_there_is_well(lab: Lab) -> None:
    lab.client("logs").create_log_group(logGroupName="mine")
    own = {"logDriver": "awslogs", "options": {"awslogs-group": "mine"}}
    found, _ = findings({"upper": lab.definition(lab.images["upper"], logConfiguration=own)})
    assert found[-1] == Finding(check="log group", ok=True, sentence="mine")


def test_a_share_for_a_queue_without_is_found(lab: Lab) -> None:
    ((_, words),) = wrong({}, **{"backend.share_identifier": "lab"})
    assert "refuses jobs with a share" in words


# What may not be asked.


class Wary(Clients):
    """Everything but Batch is refused."""

    code = "AccessDenied"

    def read(self, operation: str, /, *, service: str = "batch", **parameters: Any) -> dict[str, Any]:
        if service != "batch":
            from botocore.exceptions import ClientError

            from batch_pipeline.backends.aws_errors import translated

            denied = {"Error": {"Code": self.code, "Message": "not you"}, "ResponseMetadata": {}}
            error = ClientError(denied, operation)  # type: ignore[arg-type]
            raise translated(operation, error, service) from error
        return super().read(operation, service=service, **parameters)


def test_what_may_not_be_asked_is_unchecked_and_stops_nothing(lab: Lab) -> None:
    account = Account(Wary(aws_maker(settings_of().aws)), complete=True)
    found = account_findings(account, settings_of(), lab.definitions())
    require_ready(found)
    assert [finding.check for finding in found if "not checked" in finding.sentence] == [
        *("identity", "machines", "role"),
        *["image"] * 3,
    ]


def test_whom_aws_does_not_know_is_told_once(lab: Lab) -> None:
    wary = Wary(aws_maker(settings_of().aws))
    wary.code = "ExpiredTokenException"
    (finding,) = account_findings(Account(wary, complete=True), settings_of(), lab.definitions())
    assert (finding.check, finding.ok) == ("identity", False)
    assert "STS did not answer GetCallerIdentity (ExpiredTokenException: not you)" in finding.sentence
    assert "sign in again" in finding.sentence


def test_where_another_service_stands_in_for_aws_batch_alone_is_asked(lab: Lab) -> None:
    account = BatchBackend(settings_of(**{"aws.endpoint": "http://127.0.0.1:1"})).account
    with pytest.raises(NotVisible, match="stands in for AWS"):
        account.identity()


# Of a whole run.


@pytest.fixture
def attached() -> Callable[[VirtualBatch, Settings], BatchBackend]:
    return lambda batch, settings: BatchBackend(settings, clients=Clients(attached_maker(batch.attach)))


def test_a_run_on_the_embedded_batch_is_looked_at_without_a_call(
    attached: Callable[[VirtualBatch, Settings], BatchBackend],
) -> None:
    request = request_of(new_store())
    backend = attached(VirtualBatch(queues=()), request.settings)
    assert preflight(request, backend, Driver(request, backend).inspect().plan) == []
    assert not backend.calls


def test_a_run_on_aws_is_looked_at_as_a_whole(attached: Callable[[VirtualBatch, Settings], BatchBackend]) -> None:
    store = new_store()
    settings = settings_of(**{"aws.endpoint": "http://127.0.0.1:1", "tags.a;b": "c"})
    request = replace(request_of(store), settings=settings)
    store.delete(["SR/ann.txt"])
    backend = attached(VirtualBatch(queues=()), settings)
    found = preflight(request, backend, Driver(request, backend).inspect().plan)
    bad = [(finding.check, finding.stops) for finding in found if not finding.ok]
    assert bad == [("limits", True), *[("sources", False)] * 3, ("queue", True), ("image", True)]
    with pytest.raises(NotReady) as raised:
        require_ready(found)
    lines = raised.value.message.splitlines()
    assert lines[0].startswith("Jobs upper-0-0, count-0-0")
    assert "the tag a;b=c must be" in lines[0]
    assert "There is no job queue mixed" in lines[1]
    assert not any("ann" in line for line in lines)
    assert raised.value.exit_code == 2
    assert set(backend.calls) == {"DescribeJobQueues"}
