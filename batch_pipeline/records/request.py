"""What a driver is asked: values only, made by the command line or a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batch_pipeline.config import Settings
from batch_pipeline.pipeline.plan import Selection
from batch_pipeline.pipeline.samples import SampleList
from batch_pipeline.pipeline.workflow import Graph, WorkflowTask
from batch_pipeline.wire.store import Store


@dataclass(frozen=True, kw_only=True)
class Request:
    """All that a driver needs to plan and act."""

    workflow: type[WorkflowTask]
    graph: Graph
    samples: SampleList
    store: Store
    settings: Settings
    selection: Selection = field(default_factory=Selection)
    #: Name of the reference; empty: the only one in the store.
    reference: str = ""
    #: Prefix in the store, or a URL or folder, below which the samples' own files lie.
    sources: str = ""
    #: Folder of the sheet, where its relative names are looked for after `sources`; None: they are not.
    sheet_folder: str | None = None
    #: Port of the reference builder -> URL of the file; only for the graph of a reference.
    reference_files: Mapping[str, str] = field(default_factory=dict)
    #: Whether a receipt whose result files are gone counts as none (one more listing).
    check_results: bool = False
    #: Whether it is meant that another pipeline of the store has steps of the same names.
    share_steps: bool = False
    argv: tuple[str, ...] = ()
    description: str = ""

    @property
    def params(self) -> Mapping[str, Mapping[str, Any]]:
        """Step -> its parameters' values."""
        return {node.name: dict(node.step.params) for node in self.graph}
