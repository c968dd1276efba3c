"""The infrastructure as one stack of `infrastructure/batch_pipeline.yaml`: proposed, changed, deleted, as settings.

A parameter comes from the first place that has it: `--parameter`, the settings (bucket, prefix, key), what the stack
has, the template. Repositories are only ever added: another pipeline may share the stack, and an image that is gone
cannot be had back with the same digest. A bucket that is there already is used as it is; a stack that is deleted leaves
its bucket behind, so that the next one of that name finds it.
"""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from batch_pipeline.backends.aws_clients import Clients, aws_maker
from batch_pipeline.backends.aws_errors import code_of
from batch_pipeline.deploy.stack import Stacks
from batch_pipeline.deploy.stack_states import EMPTY, ChangeSet, Stack
from batch_pipeline.wire.errors import BackendFailed, InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.config import Settings

#: A link to `infrastructure/batch_pipeline.yaml` in the repository, a copy of it in an installed package.
TEMPLATE: Final = Path(__file__).with_name("infrastructure.yaml")
#: The repository of the image that the steps' images are made from.
BASE: Final = "base"
#: What a new stack's machines are: AWS's own choice, and newer families where the region has them, for as many kinds of
#: Spot machines as may be. All are x86_64: the two do not mix.
DEFAULT_TYPES: Final = "optimal"
NEWER_FAMILIES: Final = ("m7i", "m7a", "c7i", "r7i")


@dataclass(frozen=True, kw_only=True)
class StackProposal:
    """What would be done, and what it is compared with."""

    #: None: the stack is not there yet.
    stack: Stack | None
    change_set: ChangeSet
    #: Lines of a unified diff of the templates; empty for a new stack.
    template_diff: tuple[str, ...] = ()
    #: Parameter -> its value now, empty if it has none, and then; those that differ.
    parameters: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def changes_something(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.change_set.arn)


class Infrastructure:
    """The stack that the settings name."""

    def __init__(
        self,
        settings: Settings,
        *,
        say: Callable[[str], None],
        clients: Clients | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        name = settings.deploy.stack
        if name != name.lower():
            raise InvalidUse(
                f"The stack {name!r} has capitals, and repositories named after it may not. Set deploy.stack."
            )
        self._settings = settings
        self._clients = clients or Clients(aws_maker(settings.aws))
        self._say = say
        self._stacks = Stacks(name, self._clients, say=say, sleep=sleep)
        self.name = name

    def find(self) -> Stack | None:
        """The stack as it is; None when there is none, or only a change set that was never applied."""
        stack = self._stacks.find()
        return None if stack is None or stack.status == EMPTY else stack

    def propose(self, overrides: Mapping[str, str], images: Iterable[str] = ()) -> StackProposal:
        """Works out what would change; nothing is done. Each image gets a repository.

        Raises InvalidUse for a parameter or bucket that cannot be, and what `Stacks.propose` raises.
        """
        stack = self._stacks.find()
        known = stack if stack is not None and stack.status != EMPTY else None
        template = TEMPLATE.read_text(encoding="utf-8")
        wanted = self._parameters(known, overrides, images)
        change_set = self._stacks.propose(stack, template, wanted)
        before = self._stacks.template() if known else ""
        values = known.parameters if known else {}
        changed = {
            name: (values.get(name, ""), value)
            for name, value in wanted.items()
            if value is not None and value != values.get(name, "")
        }
        diff = tuple(_diff(before, template)) if known else ()
        return StackProposal(stack=known, change_set=change_set, template_diff=diff, parameters=changed)

    def discard(self, proposal: StackProposal) -> None:
        """Forgets a proposal."""
        self._stacks.discard(proposal.change_set)

    def apply(self, proposal: StackProposal) -> Stack:
        """Does what was proposed and waits for it. Raises DeploymentFailed."""
        return self._stacks.apply(proposal.change_set)

    def delete(self, stack: Stack) -> None:
        """Deletes the stack, all but its bucket, and waits for it. Raises RunConflict, DeploymentFailed."""
        self._stacks.delete(stack)

    # Parameters.

    def _parameters(
        self, stack: Stack | None, overrides: Mapping[str, str], images: Iterable[str]
    ) -> dict[str, str | None]:
        """Parameter -> value, or None where the stack's own is kept; those at their default are not there."""
        names = parameter_names(TEMPLATE.read_text(encoding="utf-8"))
        for name in overrides:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(names)}."
                raise InvalidUse(f"The infrastructure has no parameter {name!r}. {hint}")
        wanted: dict[str, str | None] = {name: None for name in names if stack and name in stack.parameters}
        wanted.update(self._of_settings())
        wanted.update(overrides)
        listed = overrides.get("Repositories") or (stack.parameters.get("Repositories", "") if stack else "")
        kept = set(filter(None, listed.split(",")))
        new = {name for name in sorted({BASE, *images} - kept) if not self._has_repository(name)}
        wanted["Repositories"] = ",".join(sorted(kept | new))
        if stack is None:
            wanted = {"InstanceTypes": self._instance_types(), **self._with_bucket(wanted)}
        elif wanted["BucketName"] not in (None, stack.parameters["BucketName"]):
            raise InvalidUse(
                f"Stack {self.name} has the bucket {stack.parameters['BucketName']}, and the settings say "
                f"{wanted['BucketName']}. Name the one it has, or set deploy.stack for another stack."
            )
        return wanted

    def _of_settings(self) -> dict[str, str | None]:
        bucket, prefix = _place(self._settings)
        key = self._settings.store.kms_key
        if key and not key.startswith("arn:"):
            key = self._clients.read("describe_key", service="kms", KeyId=key)["KeyMetadata"]["Arn"]
        parameters = {"BucketName": bucket, "KeyPrefix": f"{prefix}/" if prefix else "", "KmsKeyArn": key}
        return {name: value for name, value in parameters.items() if value}

    def _with_bucket(self, wanted: Mapping[str, str | None]) -> dict[str, str | None]:
        """Parameters of a new stack: with a bucket's name, and whether the bucket is to be made."""
        bucket = wanted.get("BucketName") or self._default_bucket()
        make = wanted.get("MakeBucket") or ("no" if self._has_bucket(bucket) else "yes")
        if make == "no":
            self._say(f"Bucket {bucket} is used as it is: its encryption, policy and lifecycle are not touched.")
        return {**wanted, "BucketName": bucket, "MakeBucket": make}

    def _instance_types(self) -> str:
        """The machines of a new stack. Batch refuses a family that its region does not have, so EC2 is asked."""
        sizes = {f"{family}.4xlarge": family for family in NEWER_FAMILIES}
        filters = [{"Name": "instance-type", "Values": list(sizes)}]
        try:
            answer = self._clients.read("describe_instance_type_offerings", service="ec2", Filters=filters)
        except BackendFailed as error:
            if code_of(error) != "UnauthorizedOperation":
                raise
            return DEFAULT_TYPES
        offered = {sizes[item["InstanceType"]] for item in answer["InstanceTypeOfferings"]}
        return ",".join([DEFAULT_TYPES, *(family for family in NEWER_FAMILIES if family in offered)])

    def _has_repository(self, name: str) -> bool:
        """Whether it exists already, such as `deploy images` before there was a stack."""
        try:
            self._clients.read("describe_repositories", service="ecr", repositoryNames=[f"{self.name}/{name}"])
        except BackendFailed as error:
            if code_of(error) == "RepositoryNotFoundException":
                return False
            raise
        self._say(f"Repository {self.name}/{name} is there already and is used as it is.")
        return True

    def _default_bucket(self) -> str:
        """A bucket name that is globally unique: it has the account's id."""
        arn = str(self._clients.read("get_caller_identity", service="sts")["Arn"])
        return f"{self.name}-{arn.split(':')[4]}"

    def _has_bucket(self, bucket: str) -> bool:
        """Whether the bucket is there and ours. Raises InvalidUse for somebody else's."""
        try:
            self._clients.read("head_bucket", service="s3", Bucket=bucket)
        except BackendFailed as error:
            if code_of(error) in ("404", "NoSuchBucket"):
                return False
            if code_of(error) in ("403", "301"):
                raise InvalidUse(
                    f"The bucket {bucket} belongs to another account, is in another region, or is closed to you. "
                    "Name another with --bucket-name, or set aws.region."
                ) from error
            raise
        return True


def settings_text(stack: Stack, settings: Settings) -> str:
    """The `batch_pipeline.toml` by which runs use the stack."""
    _, prefix = _place(settings)
    key_prefix = stack.parameters.get("KeyPrefix", "").strip("/") or prefix
    sections: dict[str, dict[str, str]] = {
        "store": {
            "bucket": stack.outputs.get("Bucket", ""),
            "prefix": key_prefix,
            "kms_key": stack.parameters.get("KmsKeyArn", ""),
        },
        "backend": {
            "name": "aws",
            "queue": stack.outputs.get("QueueName", ""),
            "on_demand_queue": stack.outputs.get("OnDemandQueueName", ""),
        },
        "aws": {
            "region": region_of(stack),
            "profile": settings.aws.profile,
            "job_role": stack.outputs.get("JobRoleArn", ""),
            "execution_role": stack.outputs.get("ExecutionRoleArn", ""),
            "driver_role": stack.outputs.get("DriverRoleArn", ""),
            "log_group": stack.outputs.get("LogGroupName", ""),
        },
        "deploy": {"stack": stack.name, "registry": stack.outputs.get("Registry", "")},
    }
    lines = []
    for section, values in sections.items():
        lines += [f"[{section}]", *(f'{name} = "{value}"' for name, value in values.items() if value), ""]
    return "\n".join(lines)


def deployed_settings(settings: Settings, stack: Stack) -> Settings:
    """The settings with what the stack has, where the settings leave it open."""
    outputs = stack.outputs
    return replace(
        settings,
        store=settings.store
        if settings.store.url
        else replace(
            settings.store,
            bucket=settings.store.bucket or outputs.get("Bucket", ""),
            kms_key=settings.store.kms_key or stack.parameters.get("KmsKeyArn", ""),
        ),
        aws=replace(
            settings.aws,
            region=settings.aws.region or region_of(stack),
            job_role=settings.aws.job_role or outputs.get("JobRoleArn", ""),
            execution_role=settings.aws.execution_role or outputs.get("ExecutionRoleArn", ""),
            driver_role=settings.aws.driver_role or outputs.get("DriverRoleArn", ""),
            log_group=settings.aws.log_group or outputs.get("LogGroupName", ""),
        ),
        deploy=replace(settings.deploy, registry=settings.deploy.registry or outputs.get("Registry", "")),
    )


def region_of(stack: Stack) -> str:
    """The region that the stack is in: it stands in its ARN."""
    return stack.stack_id.split(":")[3] if stack.stack_id.count(":") > 3 else ""


@cache
def parameter_names(template: str) -> tuple[str, ...]:
    """Names of a template's parameters, in its order, without a YAML parser that the client does not need else."""
    section = re.split(r"^Parameters:$", template, maxsplit=1, flags=re.MULTILINE)[-1]
    section = re.split(r"^\w", section, maxsplit=1, flags=re.MULTILINE)[0]
    return tuple(re.findall(r"^  (\w+):$", section, re.MULTILINE))


def _place(settings: Settings) -> tuple[str, str]:
    """Bucket and prefix that the settings name; each may be empty."""
    store = settings.store
    if store.url.startswith("s3://"):
        parts = urlsplit(store.url)
        return parts.netloc, "/".join(part for part in (parts.path.strip("/"), store.prefix.strip("/")) if part)
    return store.bucket.removeprefix("s3://").strip("/"), store.prefix.strip("/")


def _diff(before: str, after: str) -> Iterable[str]:
    unified = difflib.unified_diff(
        before.splitlines(), after.splitlines(), "deployed", "this version", n=2, lineterm=""
    )
    return list(unified)
