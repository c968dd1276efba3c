"""Every error that a user can meet, as one tree.

    BatchPipelineError            the root: one sentence that names the thing, the rule and the remedy
    ├── InvalidUse                what was asked cannot be right; nothing was done (exit 2)
    │   ├── InvalidConfig         a setting or option is unknown or has a wrong value
    │   ├── InvalidSampleList     the sample list breaks a rule; all its problems at once
    │   ├── InvalidPipeline       a cycle, an unconnected input, a step that cannot be loaded
    │   ├── InvalidPlan           the plan would break a limit of the backend
    │   ├── UnsafeFolder          a folder that would be trusted is somebody else's, or others may write to it
    │   ├── NotReady              what the run needs is missing, switched off or too small; all of it at once
    │   ├── Refused               the gate lets no such run pass; all that stands against it at once, with a status
    │   └── InvalidTasks          tasks of a pool break a rule; all their problems at once
    ├── RunConflict               another driver or live jobs stand in the way; nothing was done (exit 3)
    ├── Overtaken                 the same after something was sent, which goes on (exit 1)
    ├── IllegalMove               a task of a pool cannot make that move in its state; it was left alone (exit 3)
    ├── DeploymentFailed          something could not be set up, or only in part (exit 1)
    ├── StoreFailed               the store could not be read or written (exit 4)
    │   └── RepositoryFailed      a repository of code could not be read (exit 4)
    ├── PoolFailed                the pool of tasks could not be read or written (exit 4)
    ├── BackendFailed             the backend answered with an error (exit 4)
    │   ├── SubmissionRefused     nothing was queued
    │   └── SubmissionUnknown     the job may or may not be queued: look it up by name before sending again
    └── StepError                 raised inside a container; ends one cell, never the run
        ├── ContractBroken        the environment, manifest or bundle is not as agreed
        ├── MissingInput          a file that the step needs is not there or is not the promised one
        ├── InvalidOutput         the tool ended well and left a wrong result
        ├── StepFailed            the tool said that it failed
        ├── DiskFull              no space left for scratch or results
        └── StepInterrupted       a signal or a lost host; not the sample's fault

An error's docstring is its default message. `transient` says whether the very same act may succeed later: retry loops
look at nothing else. `exit_code` is what the process ends with, on the command line or in the container.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batch_pipeline.wire.contract import CommandExit, ContainerExit


class BatchPipelineError(Exception):
    """Something went wrong that has no better name."""

    #: Whether the very same act may succeed later.
    transient: bool = False
    #: What the process ends with.
    exit_code: int = CommandExit.FAILED

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())

    @property
    def message(self) -> str:
        """The sentence for the user."""
        return str(self.args[0])


class InvalidUse(BatchPipelineError):
    """What was asked cannot be right; nothing was done."""

    exit_code = CommandExit.USAGE


class InvalidConfig(InvalidUse):
    """A setting is unknown or has a wrong value."""


class InvalidSampleList(InvalidUse):
    """The sample list breaks a rule."""


class InvalidPipeline(InvalidUse):
    """The pipeline cannot be put together."""


class InvalidPlan(InvalidUse):
    """The plan would break a limit of the backend."""


class UnsafeFolder(InvalidUse):
    """A folder that would be trusted belongs to another user, or others may write to it."""


class NotReady(InvalidUse):
    """What the run needs is missing, switched off or too small."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that stands against what was asked."""

    #: What it is about: `commit`, `image`, `--env PATH`.
    subject: str
    #: The rule that it breaks, as a sentence.
    rule: str
    #: What to do, as a sentence.
    remedy: str
    #: As HTTP has it: 400 the form is wrong, 403 it is not allowed, 409 it is not so (yet, or any more).
    status: int = 400

    def __str__(self) -> str:
        return f"{self.subject}: {self.rule} {self.remedy}"

    def to_json(self) -> dict[str, str | int]:
        """As the service and `--json` have it, where the subject's key is `thing`."""
        return {"thing": self.subject, "rule": self.rule, "remedy": self.remedy, "status": self.status}


class Refused(InvalidUse):
    """The gate lets no such run pass; nothing was done."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)

    @property
    def status(self) -> int:
        """The gravest of the problems: what is not allowed, before what is badly formed, before what is not so."""
        statuses = {problem.status for problem in self.problems}
        return next((status for status in (403, 400, 409) if status in statuses), 403)


class InvalidTasks(InvalidUse):
    """Tasks of a pool break a rule."""


class RunConflict(BatchPipelineError):
    """Another driver or live jobs stand in the way; nothing was done."""

    exit_code = CommandExit.CONFLICT


class Overtaken(BatchPipelineError):
    """Another driver or live jobs came in the way after something was sent, which goes on."""


class IllegalMove(BatchPipelineError):
    """A task of a pool cannot make that move in its state; it was left alone."""

    exit_code = CommandExit.CONFLICT


class DeploymentFailed(BatchPipelineError):
    """Something could not be set up, or only in part."""


class StoreFailed(BatchPipelineError):
    """The store could not be read or written."""

    exit_code = CommandExit.UNREACHABLE
    transient = True


class RepositoryFailed(StoreFailed):
    """A repository of code could not be read."""


class PoolFailed(BatchPipelineError):
    """The pool of tasks could not be read or written."""

    exit_code = CommandExit.UNREACHABLE
    transient = True


class BackendFailed(BatchPipelineError):
    """The backend answered with an error."""

    exit_code = CommandExit.UNREACHABLE


class SubmissionRefused(BackendFailed):
    """The backend refused the job; nothing was queued."""


class SubmissionUnknown(BackendFailed):
    """The job may or may not be queued; look it up by name before sending it again."""

    transient = True


class StepError(BatchPipelineError):
    """A cell failed."""

    exit_code = ContainerExit.STEP_FAILED


class ContractBroken(StepError):
    """The environment, the manifest or the bundle is not as agreed."""

    exit_code = ContainerExit.CONTRACT_BROKEN


class MissingInput(StepError):
    """A file that the step needs is not there, or is not the promised one."""

    exit_code = ContainerExit.MISSING_INPUT


class InvalidOutput(StepError):
    """The tool ended well and left a wrong result."""

    exit_code = ContainerExit.INVALID_OUTPUT


class StepFailed(StepError):
    """The tool said that it failed."""


class DiskFull(StepError):
    """No space is left for scratch or results."""

    exit_code = ContainerExit.DISK_FULL
    transient = True


class StepInterrupted(StepError):
    """A signal or a lost host ended the cell; it is not the sample's fault."""

    exit_code = ContainerExit.INTERRUPTED
    transient = True
