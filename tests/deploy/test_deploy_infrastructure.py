"""The stack's life against moto: proposed, made, changed, deleted; and what is said when CloudFormation fails."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from batch_pipeline.backends.aws_clients import Clients
from batch_pipeline.config import load_settings
from batch_pipeline.deploy import infrastructure as module
from batch_pipeline.deploy.infrastructure import Infrastructure, deployed_settings, settings_text
from batch_pipeline.deploy.stack import Stacks
from batch_pipeline.deploy.stack_states import Stack
from batch_pipeline.wire.errors import BackendFailed, DeploymentFailed, InvalidUse, RunConflict

# moto knows no bucket policies, and none of the delivery streams.
pytestmark = [
    pytest.mark.moto,
    pytest.mark.filterwarnings("ignore:Tried to parse"),
    # A resource whose condition did not hold.
    pytest.mark.filterwarnings("ignore:Unable to delete Repository, as it was never created"),
]

Make = Callable[..., Infrastructure]


def _made(infrastructure: Infrastructure, *steps: str, **given: str) -> Stack:
    return infrastructure.apply(infrastructure.propose(given, steps))


def _repositories() -> set[str]:
    return {item["repositoryName"] for item in boto3.client("ecr").describe_repositories()["repositories"]}


def test_nothing_is_made_by_a_proposal(aws: None, infrastructure: Make) -> None:
    proposed = infrastructure().propose({}, ["picard"])
    assert proposed.stack is None
    assert "add Queue (AWS::Batch::JobQueue)" in [change.sentence for change in proposed.change_set.changes]
    assert proposed.parameters["BucketName"] == ("", "lab-123456789012")
    assert proposed.parameters["Repositories"] == ("", "base,picard")
    assert boto3.client("batch").describe_job_queues()["jobQueues"] == []
    infrastructure().discard(proposed)
    live = [item["StackStatus"] for item in boto3.client("cloudformation").describe_stacks()["Stacks"]]
    assert live == []


def test_what_a_run_needs_is_made(aws: None, infrastructure: Make) -> None:
    stack = _made(infrastructure(), "picard", "kallisto")
    assert stack.status == "CREATE_COMPLETE"
    batch = boto3.client("batch")
    queues = {queue["jobQueueName"]: queue for queue in batch.describe_job_queues()["jobQueues"]}
    assert set(queues) == {"lab-spot", "lab-on-demand"}
    environments = {
        item["computeEnvironmentArn"]: item for item in batch.describe_compute_environments()["computeEnvironments"]
    }
    order = [environments[item["computeEnvironment"]] for item in queues["lab-spot"]["computeEnvironmentOrder"]]
    assert [item["computeResources"]["type"] for item in order] == ["SPOT", "EC2"]
    (rule,) = boto3.client("s3").get_bucket_encryption(Bucket="lab-123456789012")["ServerSideEncryptionConfiguration"][
        "Rules"
    ]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    assert _repositories() == {"lab/base", "lab/kallisto", "lab/picard"}
    (group,) = boto3.client("logs").describe_log_groups()["logGroups"]
    assert (group["logGroupName"], group["retentionInDays"]) == ("/aws/batch/lab", 365)
    assert boto3.client("iam").get_role(RoleName=stack.outputs["JobRoleArn"].rpartition("/")[2])


def test_doing_it_again_changes_nothing(aws: None, infrastructure: Make) -> None:
    _made(infrastructure(), "picard")
    again = infrastructure().propose({}, ["picard"])
    assert not again.changes_something
    assert again.template_diff == ()
    assert again.parameters == {}
    assert infrastructure().apply(again).status == "CREATE_COMPLETE"


def test_a_step_more_is_a_repository_more_and_none_is_taken_away(aws: None, infrastructure: Make) -> None:
    _made(infrastructure(), "picard")
    proposed = infrastructure().propose({}, ["pizzly"])
    assert proposed.parameters == {"Repositories": ("base,picard", "base,picard,pizzly")}
    assert "add Repositorypizzly (AWS::ECR::Repository)" in [item.sentence for item in proposed.change_set.changes]
    infrastructure().apply(proposed)
    assert _repositories() == {"lab/base", "lab/picard", "lab/pizzly"}


def test_repositories_that_are_there_already_are_left_alone(aws: None, infrastructure: Make, said: list[str]) -> None:
    for name in ("lab/base", "lab/picard"):
        boto3.client("ecr").create_repository(repositoryName=name)
    stack = _made(infrastructure(), "picard")
    assert stack.parameters["Repositories"] == ""
    assert [sentence.split(" is ")[0] for sentence in said[:2]] == ["Repository lab/base", "Repository lab/picard"]
    assert _made(infrastructure(), "pizzly").parameters["Repositories"] == "pizzly"
    assert _repositories() == {"lab/base", "lab/picard", "lab/pizzly"}


def test_given_parameters_stay_until_others_are_given(aws: None, infrastructure: Make) -> None:
    _made(
        infrastructure(), MaxVcpus="64", Fargate="yes", ArchiveJobStates="yes", KeyPrefix="a/b/", NotifyEmail="a@b.org"
    )
    stack = _made(infrastructure(), "picard", LogRetentionDays="30")
    wanted = {"MaxVcpus": "64", "Fargate": "yes", "LogRetentionDays": "30", "KeyPrefix": "a/b/"}
    assert {name: stack.parameters[name] for name in wanted} == wanted
    assert stack.outputs["FargateQueueName"] == "lab-fargate"


def test_a_new_stack_has_newer_machines_where_the_region_has_them(aws: None, infrastructure: Make) -> None:
    stack = _made(infrastructure())
    assert stack.parameters["InstanceTypes"] == "optimal,m7i,m7a,c7i,r7i"
    environments = boto3.client("batch").describe_compute_environments()["computeEnvironments"]
    assert len(environments) == 2
    for environment in environments:
        resources: Any = environment["computeResources"]
        assert resources["instanceTypes"] == ["optimal", "m7i", "m7a", "c7i", "r7i"]
        # moto keeps the names of CloudFormation.
        assert {int(minutes) for minutes in resources["scalingPolicy"].values()} == {20}
    # What it has stays.
    assert "InstanceTypes" not in infrastructure().propose({}).parameters
    assert _made(infrastructure(), InstanceTypes="c7g").parameters["InstanceTypes"] == "c7g"


@pytest.mark.parametrize(
    ("answer", "types"),
    [
        (
            {"InstanceTypeOfferings": [{"InstanceType": "r7i.4xlarge"}, {"InstanceType": "c7i.4xlarge"}]},
            "optimal,c7i,r7i",
        ),
        ({"InstanceTypeOfferings": []}, "optimal"),
        ("UnauthorizedOperation", "optimal"),
    ],
)
def test_a_family_that_the_region_lacks_is_left_out(
    aws: None, settings_of: Callable[..., Any], said: Any, answer: Any, types: str
) -> None:
    operation = "describe_instance_type_offerings"
    clients = _Answers({operation: _refused(operation, answer) if isinstance(answer, str) else answer})
    made = Infrastructure(settings_of(), say=said, clients=clients, sleep=lambda _: None)
    assert made.propose({}).parameters["InstanceTypes"] == ("", types)


def test_the_vpc_may_be_there_already(aws: None, infrastructure: Make) -> None:
    ec2 = boto3.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.1.0.0/24")["Subnet"]["SubnetId"]
    before = len(ec2.describe_vpcs()["Vpcs"])
    _made(infrastructure(), VpcId=vpc, SubnetIds=subnet)
    assert len(ec2.describe_vpcs()["Vpcs"]) == before
    environments = boto3.client("batch").describe_compute_environments()["computeEnvironments"]
    assert {tuple(item["computeResources"]["subnets"]) for item in environments} == {(subnet,)}


def test_the_settings_say_bucket_prefix_and_key(aws: None, infrastructure: Make) -> None:
    key = boto3.client("kms").create_key()["KeyMetadata"]
    stack = _made(infrastructure(**{"store.url": "s3://given/p/", "store.prefix": "q", "store.kms_key": key["KeyId"]}))
    assert stack.parameters["BucketName"] == "given"
    assert stack.parameters["KeyPrefix"] == "p/q/"
    assert stack.parameters["KmsKeyArn"] == key["Arn"]


def test_a_bucket_that_is_there_is_used_as_it_is(aws: None, infrastructure: Make, said: list[str]) -> None:
    boto3.client("s3").create_bucket(Bucket="there")
    stack = _made(infrastructure(**{"store.bucket": "there"}))
    assert stack.parameters["MakeBucket"] == "no"
    assert "Bucket there is used as it is" in said[0]


def test_a_bucket_of_somebody_else_is_refused(aws: None, settings_of: Callable[..., Any], said: Any) -> None:
    clients = _Answers({"head_bucket": _refused("head_bucket", "403")})
    infrastructure = Infrastructure(settings_of(**{"store.bucket": "theirs"}), say=said, clients=clients)
    with pytest.raises(InvalidUse, match="The bucket theirs belongs to another account"):
        infrastructure.propose({})


def test_the_bucket_of_a_stack_stays_what_it_was(aws: None, infrastructure: Make) -> None:
    _made(infrastructure(**{"store.bucket": "first"}))
    with pytest.raises(InvalidUse, match="has the bucket first, and the settings say second"):
        infrastructure(**{"store.bucket": "second"}).propose({})


def test_an_unknown_parameter_is_told_with_the_nearest(aws: None, infrastructure: Make) -> None:
    with pytest.raises(InvalidUse, match=r"no parameter 'MaxVCPUs'\. Did you mean MaxVcpus\?"):
        infrastructure().propose({"MaxVCPUs": "1"})


def test_a_stack_with_capitals_is_refused(infrastructure: Make) -> None:
    with pytest.raises(InvalidUse, match="'Lab' has capitals"):
        infrastructure(**{"deploy.stack": "Lab"})


def test_the_difference_of_the_templates_is_told(
    aws: None, infrastructure: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _made(infrastructure())
    text = module.TEMPLATE.read_text()
    changed = tmp_path / "changed.yaml"
    changed.write_text(text.replace("ScanOnPush: true", "ScanOnPush: false"))
    monkeypatch.setattr(module, "TEMPLATE", changed)
    proposed = infrastructure().propose({})
    assert [line for line in proposed.template_diff if line.startswith("-  ")] == [
        "-          ImageScanningConfiguration: {ScanOnPush: true}"
    ]
    assert "modify Repositorybase (AWS::ECR::Repository)" in [item.sentence for item in proposed.change_set.changes]


def test_deleting_keeps_the_bucket_and_what_is_in_it(aws: None, infrastructure: Make) -> None:
    # moto cannot delete a VPC that it made with its parts; this one is not the stack's.
    ec2 = boto3.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.1.0.0/24")["Subnet"]["SubnetId"]
    stack = _made(infrastructure(), "picard", VpcId=vpc, SubnetIds=subnet)
    boto3.client("s3").put_object(Bucket="lab-123456789012", Key="results/a", Body=b"a")
    infrastructure().delete(stack)
    assert infrastructure().find() is None
    assert _repositories() == set()
    assert boto3.client("iam").list_roles()["Roles"] == []
    assert boto3.client("s3").get_object(Bucket="lab-123456789012", Key="results/a")["Body"].read() == b"a"
    assert infrastructure().propose({}).parameters["MakeBucket"] == ("", "no")


def test_the_settings_file_is_one_that_loads(aws: None, infrastructure: Make, tmp_path: Path) -> None:
    stack = _made(infrastructure(**{"store.prefix": "fusions"}))
    file = tmp_path / "made.toml"
    file.write_text(settings_text(stack, infrastructure()._settings))
    settings = load_settings(config=file, environ={})
    assert settings.store_location == "s3://lab-123456789012/fusions"
    assert (settings.backend.queue, settings.backend.on_demand_queue) == ("lab-spot", "lab-on-demand")
    assert settings.aws.job_role == stack.outputs["JobRoleArn"]
    assert settings.aws.log_group == "/aws/batch/lab"
    assert settings.deploy.registry.endswith("/lab")
    assert tomllib.loads(file.read_text())["aws"]["region"] == "us-east-1"


def test_what_the_stack_has_completes_the_settings(aws: None, infrastructure: Make, settings_of: Any) -> None:
    stack = _made(infrastructure())
    completed = deployed_settings(settings_of(**{"aws.job_role": "arn:aws:iam::1:role/mine"}), stack)
    assert completed.store.bucket == "lab-123456789012"
    assert completed.aws.job_role == "arn:aws:iam::1:role/mine"
    assert completed.aws.execution_role == stack.outputs["ExecutionRoleArn"]


# What CloudFormation says when it fails.

ARN = "arn:aws:cloudformation:us-east-1:1:stack/lab/0"


def _refused(operation: str, code: str, message: str = "no") -> BackendFailed:
    from botocore.exceptions import ClientError

    failed = BackendFailed(f"{operation} ({code}: {message})")
    failed.__cause__ = ClientError({"Error": {"Code": code, "Message": message}}, operation)
    return failed


class _Answers(Clients):
    """Clients that answer some operations by themselves."""

    def __init__(self, answers: dict[str, Any]) -> None:
        super().__init__(lambda: lambda service, config: boto3.client(service, config=config))
        self._answers = answers

    def read(self, operation: str, /, *, service: str = "batch", **parameters: Any) -> dict[str, Any]:
        answer = self._answers.get(operation)
        if isinstance(answer, Exception):
            raise answer
        return answer if answer is not None else super().read(operation, service=service, **parameters)


class Scripted:
    """A CloudFormation client whose calls and answers are written down beforehand."""

    def __init__(self) -> None:
        keys: Any = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "region_name": "us-east-1"}
        self.client = boto3.client("cloudformation", **keys)
        self.stub = Stubber(self.client)
        self.heard: list[str] = []
        self.slept: list[float] = []
        clients = Clients(lambda: lambda service, config: self.client)
        self.stacks = Stacks("lab", clients, say=self.heard.append, sleep=self.slept.append)

    def stack(self, status: str, reason: str = "") -> None:
        described = {"StackName": "lab", "StackId": ARN, "StackStatus": status, "CreationTime": datetime.now(UTC)}
        if reason:
            described["StackStatusReason"] = reason
        self.stub.add_response("describe_stacks", {"Stacks": [described]}, {"StackName": ANY})

    def events(self, *events: tuple[str, str, str]) -> None:
        """Newest first, as CloudFormation tells them."""
        told = [
            {
                "StackId": ARN,
                "StackName": "lab",
                "EventId": f"{resource} {status}",
                "LogicalResourceId": resource,
                "PhysicalResourceId": f"id of {resource}",
                "ResourceType": "AWS::Batch::JobQueue",
                "ResourceStatus": status,
                "ResourceStatusReason": reason,
                "Timestamp": datetime.now(UTC),
            }
            for resource, status, reason in events
        ]
        self.stub.add_response("describe_stack_events", {"StackEvents": told}, {"StackName": ARN})

    def change_set(self, kind: str, *answers: dict[str, Any]) -> None:
        expected = {
            "StackName": "lab",
            "ChangeSetName": ANY,
            "ChangeSetType": kind,
            "TemplateBody": "t",
            "Capabilities": ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
            "Parameters": [{"ParameterKey": "A", "UsePreviousValue": True}],
            "Tags": ANY,
            "ClientToken": ANY,
        } | ({"OnStackFailure": "DELETE"} if kind == "CREATE" else {})
        self.stub.add_response("create_change_set", {"Id": "arn:change", "StackId": ARN}, expected)
        for answer in answers:
            self.stub.add_response("describe_change_set", answer, {"ChangeSetName": "arn:change"})

    def execute(self) -> None:
        self.stub.add_response("execute_change_set", {}, {"ChangeSetName": "arn:change", "ClientRequestToken": ANY})


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    made = Scripted()
    with made.stub:
        yield made
    made.stub.assert_no_pending_responses()


def _stack(status: str, reason: str = "") -> Stack:
    return Stack(name="lab", stack_id=ARN, status=status, reason=reason)


def _ready(*changes: str) -> dict[str, Any]:
    told = [{"ResourceChange": {"Action": "Modify", "LogicalResourceId": name}} for name in changes]
    return {"Status": "CREATE_COMPLETE", "Changes": told}


def test_an_update_that_fails_is_told_by_its_cause(scripted: Scripted) -> None:
    scripted.change_set("UPDATE", {"Status": "CREATE_PENDING"}, _ready("Queue", "Bucket"))
    proposed = scripted.stacks.propose(_stack("CREATE_COMPLETE"), "t", {"A": None})
    assert [change.resource for change in proposed.changes] == ["Queue", "Bucket"]
    scripted.events(("Queue", "CREATE_COMPLETE", ""))
    scripted.execute()
    scripted.stack("UPDATE_IN_PROGRESS")
    scripted.events(("Bucket", "UPDATE_COMPLETE", ""), ("Queue", "CREATE_COMPLETE", ""))
    scripted.stack("UPDATE_ROLLBACK_COMPLETE", "The following resource(s) failed to update: [Queue].")
    scripted.events(
        ("Other", "UPDATE_FAILED", "Resource update cancelled"),
        ("Queue", "UPDATE_FAILED", "Priority is wrong"),
        ("Bucket", "UPDATE_COMPLETE", ""),
        ("Queue", "CREATE_COMPLETE", ""),
    )
    with pytest.raises(DeploymentFailed) as raised:
        scripted.stacks.apply(proposed)
    lines = raised.value.message.splitlines()
    assert "is as it was before (The following resource(s) failed to update: [Queue])" in lines[0]
    assert lines[1:] == ["Queue (JobQueue): could not be changed: Priority is wrong"]
    assert scripted.heard == ["Bucket (JobQueue): changed"]


def test_a_creation_that_fails_leaves_nothing_and_says_why(scripted: Scripted) -> None:
    scripted.change_set("CREATE", _ready("Queue"))
    proposed = scripted.stacks.propose(None, "t", {"A": None})
    scripted.events()
    scripted.execute()
    scripted.stack("DELETE_COMPLETE")
    scripted.events(("Queue", "CREATE_FAILED", "quota"))
    with pytest.raises(DeploymentFailed, match="nothing is left of it") as raised:
        scripted.stacks.apply(proposed)
    assert raised.value.message.endswith("Queue (JobQueue): could not be made: quota")


def test_a_stack_at_rest_without_an_event_has_not_begun(scripted: Scripted) -> None:
    scripted.change_set("UPDATE", _ready("Queue"))
    proposed = scripted.stacks.propose(_stack("CREATE_COMPLETE"), "t", {"A": None})
    scripted.events()
    scripted.execute()
    scripted.stack("CREATE_COMPLETE")
    scripted.events()
    scripted.stack("UPDATE_COMPLETE")
    scripted.events(("Queue", "UPDATE_COMPLETE", ""))
    assert scripted.stacks.apply(proposed).status == "UPDATE_COMPLETE"
    assert len(scripted.slept) == 1


def test_a_change_set_without_changes_is_removed(scripted: Scripted) -> None:
    reason = "The submitted information didn't contain changes. Submit different information to create a change set."
    scripted.change_set("UPDATE", {"Status": "FAILED", "StatusReason": reason})
    scripted.stub.add_response("delete_change_set", {}, {"ChangeSetName": "arn:change"})
    proposed = scripted.stacks.propose(_stack("UPDATE_COMPLETE"), "t", {"A": None})
    assert not proposed.arn


def test_a_change_set_that_is_refused_says_why(scripted: Scripted) -> None:
    scripted.change_set("UPDATE", {"Status": "FAILED", "StatusReason": "VpcId was given without SubnetIds."})
    scripted.stub.add_response("delete_change_set", {}, {"ChangeSetName": "arn:change"})
    with pytest.raises(DeploymentFailed, match="refuses the change of stack lab: VpcId was given without SubnetIds"):
        scripted.stacks.propose(_stack("UPDATE_COMPLETE"), "t", {"A": None})


def test_a_wrong_parameter_is_told_in_cloudformations_words(scripted: Scripted) -> None:
    message = "Parameter 'MaxVcpus' failed to satisfy: a number not greater than 100000"
    scripted.stub.add_client_error("create_change_set", "ValidationError", message, 400)
    with pytest.raises(DeploymentFailed, match=message):
        scripted.stacks.propose(_stack("UPDATE_COMPLETE"), "t", {"A": None})


def test_missing_rights_are_no_failure_of_the_template(scripted: Scripted) -> None:
    scripted.stub.add_client_error("create_change_set", "AccessDeniedException", "not authorised", 403)
    with pytest.raises(BackendFailed, match="CloudFormation refused CreateChangeSet"):
        scripted.stacks.propose(_stack("UPDATE_COMPLETE"), "t", {"A": None})


@pytest.mark.parametrize(
    ("status", "kind", "sentence"),
    [
        ("ROLLBACK_COMPLETE", DeploymentFailed, "deploy infrastructure --delete"),
        ("DELETE_FAILED", DeploymentFailed, "by hand"),
        ("UPDATE_ROLLBACK_FAILED", DeploymentFailed, "continue-update-rollback --stack-name lab"),
        ("UPDATE_IN_PROGRESS", RunConflict, "is being changed now"),
    ],
)
def test_a_stack_that_cannot_be_changed_is_refused_with_the_way_out(
    status: str, kind: type[Exception], sentence: str, scripted: Scripted
) -> None:
    with pytest.raises(kind, match=sentence):
        scripted.stacks.propose(_stack(status, "because"), "t", {"A": None})


def test_a_deletion_that_fails_says_what_is_left(scripted: Scripted) -> None:
    scripted.events()
    scripted.stub.add_response("delete_stack", {}, {"StackName": ARN, "ClientRequestToken": ANY})
    scripted.stack("DELETE_FAILED")
    scripted.events(("Queue", "DELETE_FAILED", "it has jobs"))
    with pytest.raises(DeploymentFailed, match="Queue \\(JobQueue\\): could not be deleted: it has jobs"):
        scripted.stacks.delete(_stack("CREATE_COMPLETE"))


def test_a_failed_stack_may_be_deleted_and_a_busy_one_may_not(scripted: Scripted) -> None:
    with pytest.raises(RunConflict):
        scripted.stacks.delete(_stack("UPDATE_IN_PROGRESS"))
    scripted.events()
    scripted.stub.add_response("delete_stack", {}, {"StackName": ARN, "ClientRequestToken": ANY})
    scripted.stack("DELETE_COMPLETE")
    scripted.events(("Queue", "DELETE_COMPLETE", ""))
    scripted.stacks.delete(_stack("ROLLBACK_COMPLETE"))
    assert scripted.heard == ["Queue (JobQueue): deleted"]
