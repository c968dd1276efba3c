"""Values and sentences for a stack of CloudFormation: its state, a change set, how a change ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from batch_pipeline.wire.errors import DeploymentFailed, RunConflict

#: A change set that only exists; nothing was made.
EMPTY: Final = "REVIEW_IN_PROGRESS"
#: A part whose creation was stopped because another failed; its own story is of no use.
_CONSEQUENCE: Final = "cancelled"
#: States that no update leads out of.
_STUCK: Final = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED", "UPDATE_ROLLBACK_FAILED")
_WORDS: Final[Mapping[str, str]] = {
    "CREATE_COMPLETE": "made",
    "UPDATE_COMPLETE": "changed",
    "DELETE_COMPLETE": "deleted",
    "DELETE_SKIPPED": "kept",
    "IMPORT_COMPLETE": "taken over",
    "CREATE_FAILED": "could not be made",
    "UPDATE_FAILED": "could not be changed",
    "DELETE_FAILED": "could not be deleted",
}


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A stack as CloudFormation describes it."""

    name: str
    #: Its ARN: names it even after it was deleted.
    stack_id: str
    status: str
    reason: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a change set does to one resource."""

    #: `Add`, `Modify`, `Remove`, `Import` or `Dynamic`.
    action: str
    resource: str
    kind: str
    #: `True`, `False` or `Conditional`: whether another takes its place; empty where that has no meaning.
    replacement: str = ""

    @property
    def sentence(self) -> str:
        """The change in one line."""
        replaced = {"True": ", replaced by another", "Conditional": ", perhaps replaced by another"}
        return f"{self.action.lower()} {self.resource} ({self.kind}){replaced.get(self.replacement, '')}"


@dataclass(frozen=True, kw_only=True)
class ChangeSet:
    """A change set that is ready; without changes there is none at CloudFormation either."""

    arn: str
    stack_id: str
    #: Whether the stack is made by it.
    creates: bool
    changes: Sequence[Change] = ()


def event_sentence(event: Mapping[str, Any]) -> tuple[str, bool]:
    """An event as a sentence, and whether it is a failure; no sentence for one that is of no use to a person."""
    status, reason = event.get("ResourceStatus", ""), event.get("ResourceStatusReason", "")
    is_the_stack = event.get("PhysicalResourceId") == event.get("StackId")
    if status not in _WORDS or is_the_stack or _CONSEQUENCE in reason:
        return "", False
    kind = str(event.get("ResourceType", "")).rpartition("::")[2]
    sentence = f"{event.get('LogicalResourceId')} ({kind}): {_WORDS[status]}"
    failed = status.endswith("_FAILED")
    return (f"{sentence}: {reason}" if failed else sentence), failed


def refuse_unready(stack: Stack | None) -> None:
    """Refuses a stack that cannot be changed as it stands. Raises RunConflict, DeploymentFailed."""
    if stack is None or stack.status == EMPTY:
        return
    if stack.status.endswith("_IN_PROGRESS"):
        raise RunConflict(
            f"Stack {stack.name} is being changed now ({stack.status}). Run the same command again when that is over."
        )
    if stack.status in _STUCK:
        raise DeploymentFailed(ending(stack))


def ending(stack: Stack) -> str:
    """What a stack's last change came to, and the way out."""
    because = f" ({stack.reason.rstrip('.')})" if stack.reason else ""
    delete = "`deploy infrastructure --delete` removes what is left; then deploy it again."
    endings = {
        "ROLLBACK_COMPLETE": f"could not be made, and what was made of it is gone again{because}. {delete}",
        "ROLLBACK_FAILED": f"could not be made, nor could all of it be removed again{because}. {delete}",
        "CREATE_FAILED": f"could not be made{because}. {delete}",
        "DELETE_COMPLETE": f"could not be made, and nothing is left of it{because}. Fix what is told here and deploy "
        "it again.",
        "DELETE_FAILED": f"could not be deleted as a whole{because}. Remove what is told here, or what uses it, by "
        "hand, then `deploy infrastructure --delete` again.",
        "UPDATE_ROLLBACK_COMPLETE": f"could not be changed, and is as it was before{because}. Fix what is told here "
        "and deploy it again.",
        "UPDATE_ROLLBACK_FAILED": f"could not be changed, nor be brought back to what it was{because}. Fix what is "
        f"told here, then: aws cloudformation continue-update-rollback --stack-name {stack.name}",
    }
    return f"Stack {stack.name} {endings.get(stack.status, f'ended as {stack.status}{because}.')}"
