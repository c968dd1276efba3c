"""One CloudFormation stack: what it is now, what would change, changing it by a change set, deleting it.

Everything goes through a change set, so that what was shown is what is done. Each call that changes something has a
token: sent twice, it acts once. Creation that fails is undone as a whole; an update that fails is rolled back. Waiting
polls, and tells each part when it is done; what failed is told in CloudFormation's own words, causes before
consequences. A stack that cannot be changed as it stands is refused with the way out.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import Any, Final

from batch_pipeline.backends.aws_clients import Clients
from batch_pipeline.backends.aws_errors import code_of, error_text
from batch_pipeline.deploy.stack_states import EMPTY, Change, ChangeSet, Stack, ending, event_sentence, refuse_unready
from batch_pipeline.wire.errors import BackendFailed, DeploymentFailed

#: IAM resources are made, and Fn::ForEach is a transform:
#: https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_CreateChangeSet.html
CAPABILITIES: Final = ("CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND")
POLL_SECONDS: Final = 3.0
#: Looks after which a stack that never stirred is believed to be done.
PATIENT_LOOKS: Final = 10
DONE: Final = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE")
#: How CloudFormation says that a change set has nothing in it.
_NO_CHANGES: Final = ("didn't contain changes", "No updates are to be performed")


class Stacks:
    """The stack of one name. `say` hears what happens while a command waits."""

    def __init__(
        self,
        name: str,
        clients: Clients,
        *,
        say: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = name
        self._clients = clients
        self._say = say
        self._sleep = sleep

    def find(self, name: str = "") -> Stack | None:
        """The stack, or None when there is none. Raises BackendFailed."""
        try:
            described = self._read("describe_stacks", StackName=name or self.name)["Stacks"][0]
        except BackendFailed as error:
            if code_of(error) == "ValidationError" and "does not exist" in str(error):
                return None
            raise
        if described["StackStatus"] == "DELETE_COMPLETE" and not name:
            return None
        return _stack_of(described)

    def template(self) -> str:
        """The template that the stack was made of, as it was sent."""
        body = self._read("get_template", StackName=self.name, TemplateStage="Original").get("TemplateBody", "")
        return body if isinstance(body, str) else ""

    def propose(self, stack: Stack | None, template: str, parameters: Mapping[str, str | None]) -> ChangeSet:
        """Makes a change set; a parameter of None keeps its value.

        Raises RunConflict while somebody else changes the stack, DeploymentFailed for one that can only be deleted or
        when CloudFormation finds the template or a parameter wrong.
        """
        refuse_unready(stack)
        creates = stack is None or stack.status == EMPTY
        request: dict[str, Any] = {
            "StackName": self.name,
            "ChangeSetName": f"batch-pipeline-{uuid.uuid4().hex}",
            "ChangeSetType": "CREATE" if creates else "UPDATE",
            "TemplateBody": template,
            "Capabilities": list(CAPABILITIES),
            "Parameters": [_parameter(name, value) for name, value in parameters.items()],
            "Tags": [{"Key": "batch-pipeline", "Value": self.name}],
            "ClientToken": uuid.uuid4().hex,
        }
        if creates:
            request["OnStackFailure"] = "DELETE"
        try:
            made = self._read("create_change_set", **request)
        except BackendFailed as error:
            if any(words in str(error) for words in _NO_CHANGES) and stack is not None:
                return ChangeSet(arn="", stack_id=stack.stack_id, creates=False)
            raise self._refused(error) from error
        return self._ready(str(made["Id"]), str(made["StackId"]), creates)

    def discard(self, proposed: ChangeSet) -> None:
        """Forgets a change set, and the empty stack that exists for its sake alone."""
        if not proposed.arn:
            return
        self._read("delete_change_set", ChangeSetName=proposed.arn)
        if proposed.creates:
            self._read("delete_stack", StackName=proposed.stack_id)

    def apply(self, proposed: ChangeSet) -> Stack:
        """Does what a change set says and waits for the end of it. Raises DeploymentFailed with what failed."""
        if proposed.arn:
            seen = self._event_ids(proposed.stack_id)
            self._read("execute_change_set", ChangeSetName=proposed.arn, ClientRequestToken=uuid.uuid4().hex)
            stack = self._wait(proposed.stack_id, seen)
        else:
            stack = self._described(proposed.stack_id)
        return stack

    def delete(self, stack: Stack) -> None:
        """Deletes the stack and waits for the end of it. Raises RunConflict, DeploymentFailed."""
        if stack.status.endswith("_IN_PROGRESS") and stack.status != EMPTY:
            refuse_unready(stack)
        seen = self._event_ids(stack.stack_id)
        self._read("delete_stack", StackName=stack.stack_id, ClientRequestToken=uuid.uuid4().hex)
        self._wait(stack.stack_id, seen, deletes=True)

    # Waiting.

    def _ready(self, arn: str, stack_id: str, creates: bool) -> ChangeSet:
        """The change set when CloudFormation has worked it out."""
        while True:
            described = self._read("describe_change_set", ChangeSetName=arn)
            status = described.get("Status", "")
            if status == "CREATE_COMPLETE":
                return ChangeSet(
                    arn=arn, stack_id=stack_id, creates=creates, changes=tuple(self._changes(arn, described))
                )
            if status == "FAILED":
                self.discard(ChangeSet(arn=arn, stack_id=stack_id, creates=creates))
                reason = described.get("StatusReason", "it gives no reason")
                if any(words in reason for words in _NO_CHANGES):
                    return ChangeSet(arn="", stack_id=stack_id, creates=False)
                raise DeploymentFailed(f"CloudFormation refuses the change of stack {self.name}: {reason}")
            self._sleep(POLL_SECONDS)

    def _changes(self, arn: str, page: Mapping[str, Any]) -> Iterator[Change]:
        while True:
            for item in page.get("Changes", ()):
                changed = item.get("ResourceChange", {})
                yield Change(
                    action=changed.get("Action", ""),
                    resource=changed.get("LogicalResourceId", ""),
                    kind=changed.get("ResourceType", ""),
                    replacement=changed.get("Replacement", ""),
                )
            if not page.get("NextToken"):
                return
            page = self._read("describe_change_set", ChangeSetName=arn, NextToken=page["NextToken"])

    def _wait(self, stack_id: str, seen: set[str], *, deletes: bool = False) -> Stack:
        failures: list[str] = []
        looks = begun = 0
        while True:
            stack = self._described(stack_id)
            new = self._new_events(stack_id, seen)
            for sentence, failed in filter(itemgetter(0), map(event_sentence, new)):
                failures.append(sentence) if failed else self._say(sentence)
            begun, looks = begun + len(new), looks + 1
            # What was asked for shows a moment later: a stack at rest without an event has not begun.
            if not stack.status.endswith("_IN_PROGRESS") and (begun or looks > PATIENT_LOOKS):
                break
            self._sleep(POLL_SECONDS)
        if stack.status not in (("DELETE_COMPLETE",) if deletes else DONE):
            raise DeploymentFailed("\n".join((ending(stack), *failures)))
        return stack

    def _described(self, stack_id: str) -> Stack:
        stack = self.find(stack_id)
        # A stand-in may forget a deleted stack at once; CloudFormation keeps it under its ARN for 90 days.
        return stack or Stack(name=self.name, stack_id=stack_id, status="DELETE_COMPLETE")

    def _event_ids(self, stack_id: str) -> set[str]:
        return {event["EventId"] for event in self._events(stack_id)}

    def _new_events(self, stack_id: str, seen: set[str]) -> list[Mapping[str, Any]]:
        """Events not seen yet, oldest first; they are seen from now on."""
        new: list[Mapping[str, Any]] = []
        for event in self._events(stack_id):
            if event["EventId"] in seen:
                break
            new.append(event)
        seen.update(event["EventId"] for event in new)
        return new[::-1]

    def _events(self, stack_id: str) -> Iterator[Mapping[str, Any]]:
        """All events, newest first."""
        more: dict[str, str] = {}
        while True:
            try:
                page = self._read("describe_stack_events", StackName=stack_id, **more)
            except BackendFailed as error:
                if code_of(error) == "ValidationError":
                    return
                raise
            yield from page.get("StackEvents", ())
            if not page.get("NextToken"):
                return
            more = {"NextToken": page["NextToken"]}

    def _refused(self, error: BackendFailed) -> Exception:
        """What is wrong with the template or a parameter is no failure to reach anybody."""
        if code_of(error) not in ("ValidationError", "InsufficientCapabilitiesException", "LimitExceededException"):
            return error
        words = error_text(error.__cause__) if isinstance(error.__cause__, Exception) else error.message
        return DeploymentFailed(f"CloudFormation refuses the change of stack {self.name}: {words}.")

    def _read(self, operation: str, **parameters: Any) -> dict[str, Any]:
        return self._clients.read(operation, service="cloudformation", **parameters)


def _stack_of(described: Mapping[str, Any]) -> Stack:
    return Stack(
        name=described["StackName"],
        stack_id=described["StackId"],
        status=described["StackStatus"],
        reason=described.get("StackStatusReason", ""),
        parameters={
            item["ParameterKey"]: _text(item.get("ParameterValue")) for item in described.get("Parameters", ())
        },
        outputs={item["OutputKey"]: item.get("OutputValue", "") for item in described.get("Outputs", ())},
    )


def _text(value: Any) -> str:
    """A parameter's value; CloudFormation tells lists with commas between."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _parameter(name: str, value: str | None) -> dict[str, Any]:
    if value is None:
        return {"ParameterKey": name, "UsePreviousValue": True}
    return {"ParameterKey": name, "ParameterValue": value}
