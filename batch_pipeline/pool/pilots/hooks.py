"""What a user's own code does around a pilot and around each run: a class, or scripts.

A class is named `module:Class` and made without arguments; of its methods those that are there are called:

    prepare_env()                  before the first claim; what it raises ends the pilot, with nothing claimed
    prepare_run(task)              before each command; may return variables for it; what it raises fails the task
    cleanup_run(task, outcome)     after each; what it raises is told and changes no result
    cleanup_env()                  at the end, whatever happened since `prepare_env` was begun
    stop(stats)                    a stop criterion of its own: whether to begin nothing more

Scripts are given as a command each, run by `bash -c` with the task's variables and, after it, `TASK_EXIT_CODE`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final

from batch_pipeline.pool.pilots.pilot_config import PilotStats
from batch_pipeline.pool.task import Task, TaskOutcome
from batch_pipeline.wire.errors import InvalidUse, StepFailed

NAMES: Final = ("prepare_env", "cleanup_env", "prepare_run", "cleanup_run")


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What is called when; nothing that is not given."""

    prepare_env: Callable[[], object] | None = None
    cleanup_env: Callable[[], object] | None = None
    prepare_run: Callable[[Task], Mapping[str, str] | None] | None = None
    cleanup_run: Callable[[Task, TaskOutcome], object] | None = None
    stop: Callable[[PilotStats], bool] | None = None


def hooks_of(name: str = "", scripts: Mapping[str, str] | None = None) -> Hooks:
    """The hooks of a class and of scripts; a script goes before the class's method of its name.

    Raises
    ------
    InvalidUse
        There is no such class, or it has none of the methods.
    """
    methods = _of_class(name) if name else {}
    return Hooks(**{**methods, **{hook: _script(hook, line) for hook, line in (scripts or {}).items() if line}})


def guarded(call: Callable[..., Any], *arguments: object) -> Any:
    """Calls a hook. Raises StepFailed for whatever it raises."""
    try:
        return call(*arguments)
    # The border to a user's code: whatever it raises ends one task or one pilot, in words.
    except Exception as error:
        name = getattr(call, "__name__", "hook")
        raise StepFailed(f"The hook {name} failed: {type(error).__name__}: {error}. Fix it, then retry.") from error


def _of_class(name: str) -> dict[str, Callable[..., Any]]:
    module_name, _, class_name = name.partition(":")
    rule = "Name a class of your own as module:Class, importable from the working directory."
    if not module_name or not class_name:
        raise InvalidUse(f"{name!r} names no hooks. {rule}")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        made = getattr(import_module(module_name), class_name)()
    except (ImportError, AttributeError, TypeError) as error:
        raise InvalidUse(f"The hooks {name!r} cannot be made: {error}. {rule}") from error
    methods = {hook: getattr(made, hook) for hook in (*NAMES, "stop") if callable(getattr(made, hook, None))}
    if not methods:
        raise InvalidUse(f"{name} has none of the methods {', '.join(NAMES)} and stop. Give it one.")
    return methods


def _script(hook: str, line: str) -> Callable[..., None]:
    return _ScriptHook(hook, line)


@dataclass(frozen=True)
class _ScriptHook:
    hook: str
    line: str
    #: For messages, as a method has it.
    __name__: str = field(default="", init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "__name__", self.hook)

    def __call__(self, task: Task | None = None, outcome: TaskOutcome | None = None) -> None:
        environment = {**os.environ, **(variables_of(task) if task else {})}
        if outcome is not None:
            environment |= {"TASK_EXIT_CODE": "" if outcome.exit_code is None else str(outcome.exit_code)}
            environment |= {"TASK_END_REASON": outcome.end_reason.value}
        subprocess.run(["bash", "-c", self.line], env=environment, check=True, stdin=subprocess.DEVNULL)


def variables_of(task: Task) -> dict[str, str]:
    """What a task's command, and scripts around it, find in their environment."""
    spec = task.spec
    return {
        **spec.environment,
        "TASK_ID": spec.id,
        "TASK_CLASS": spec.resource_class,
        "TASK_ATTEMPT": str(task.attempts + task.returns + 1),
        "TASK_PARENT": spec.parent,
    }
