"""Samples x steps as dependent AWS Batch array jobs: one API call a step, the laptop closed, exact reruns.

The names below are what a pipeline needs. They are loaded at first use, so that the container, which imports a step,
does not import the command line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batch_pipeline.pipeline.cell_facts import CellFacts, Learned
    from batch_pipeline.pipeline.step import Column, Input, Output, Param, Reference, Scope, Step
    from batch_pipeline.pipeline.workflow import Source, WorkflowTask
    from batch_pipeline.wire.errors import InvalidOutput, MissingInput, StepFailed
    from batch_pipeline.wire.job import Job
    from batch_pipeline.wire.tools import ToolOutput

__version__ = "0.1.0"

_HOME = {
    "CellFacts": "batch_pipeline.pipeline.cell_facts",
    "Column": "batch_pipeline.pipeline.step",
    "Input": "batch_pipeline.pipeline.step",
    "InvalidOutput": "batch_pipeline.wire.errors",
    "Job": "batch_pipeline.wire.job",
    "Learned": "batch_pipeline.pipeline.cell_facts",
    "MissingInput": "batch_pipeline.wire.errors",
    "Output": "batch_pipeline.pipeline.step",
    "Param": "batch_pipeline.pipeline.step",
    "Reference": "batch_pipeline.pipeline.step",
    "Scope": "batch_pipeline.pipeline.step",
    "Source": "batch_pipeline.pipeline.workflow",
    "Step": "batch_pipeline.pipeline.step",
    "StepFailed": "batch_pipeline.wire.errors",
    "ToolOutput": "batch_pipeline.wire.tools",
    "WorkflowTask": "batch_pipeline.pipeline.workflow",
}

__all__ = [
    "CellFacts",
    "Column",
    "Input",
    "InvalidOutput",
    "Job",
    "Learned",
    "MissingInput",
    "Output",
    "Param",
    "Reference",
    "Scope",
    "Source",
    "Step",
    "StepFailed",
    "ToolOutput",
    "WorkflowTask",
]


def __getattr__(name: str) -> Any:
    import_module("batch_pipeline.wire.uncaught").print_mistakes()
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
