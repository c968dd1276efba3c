from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from batch_pipeline.backends.account import NotVisible
from batch_pipeline.backends.capacity import InstanceType
from batch_pipeline.backends.memory import MemoryBackend
from batch_pipeline.config import load_settings
from batch_pipeline.run.local_capacity import embedded_capacity, memory_cap, require_capacity
from batch_pipeline.wire.errors import InvalidUse


def definition(vcpus: str, memory: str) -> dict[str, Any]:
    wanted = [{"type": "VCPU", "value": vcpus}, {"type": "MEMORY", "value": memory}]
    return {"containerProperties": {"image": "x", "resourceRequirements": wanted}}


class Inspected(MemoryBackend):
    """A backend whose queues have machines; None: nobody may ask for them."""

    def __init__(self, machines: Mapping[str, Sequence[InstanceType]] | None) -> None:
        super().__init__()
        self._machines = machines
        self.asked: list[str] = []

    @property
    def account(self) -> Any:
        return self

    def queues(self, names: Iterable[str]) -> dict[str, Any]:
        self.asked = list(names)
        return {}

    def machines(self, queues: Iterable[Any]) -> Mapping[str, Sequence[InstanceType]]:
        if self._machines is None:
            raise NotVisible("not allowed")
        return self._machines


DEFINITIONS = {"small": definition("1", "512"), "wide": definition("3", "512"), "large": definition("1", "6144")}


def test_a_step_that_can_never_start_is_told_with_the_setting_that_helps() -> None:
    settings = load_settings({"embedded.vcpus": 2, "embedded.memory_mb": 4096})
    require_capacity(settings, DEFINITIONS, ["small"])
    with pytest.raises(InvalidUse, match=r"Step wide asks for 3 vCPUs .* has 2, .*EMBEDDED__VCPUS=3"):
        require_capacity(settings, DEFINITIONS, ["small", "wide"])
    with pytest.raises(InvalidUse, match=r"Step large asks for 6,144 MiB of memory .* has 4,096, .*MEMORY_MB=6144"):
        require_capacity(settings, DEFINITIONS, ["large"])


def test_on_aws_the_compute_environments_decide() -> None:
    require_capacity(load_settings({"backend.name": "aws", "embedded.memory_mb": 1024}), DEFINITIONS, ["large"])


def test_what_is_not_set_is_what_the_machine_has() -> None:
    vcpus, memory_mb = embedded_capacity(load_settings().embedded)
    assert vcpus == len(os.sched_getaffinity(0))
    assert memory_mb * 2**20 <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory_mb > 0
    assert embedded_capacity(load_settings({"embedded.vcpus": 3, "embedded.memory_mb": 512}).embedded) == (3, 512)


def test_the_largest_machine_of_the_queues_bounds_what_a_hungry_cell_is_given() -> None:
    machines = {
        "hosts": [InstanceType(name="a", vcpus=2, memory_mb=8192), InstanceType(name="b", vcpus=8, memory_mb=32768)]
    }
    backend = Inspected(machines)
    aws = {"backend.name": "aws", "backend.on_demand_queue": "steady"}
    assert memory_cap(load_settings(aws), backend) == int(0.97 * 32768)
    assert backend.asked == ["mixed", "steady"]
    assert memory_cap(load_settings({**aws, "recovery.memory_cap_mb": 4096}), backend) == 4096
    assert memory_cap(load_settings(aws), Inspected({})) == 0, "nobody knows"
    assert memory_cap(load_settings(aws), Inspected(None)) == 0, "we may not ask"
    assert memory_cap(load_settings({"embedded.memory_mb": 512}), backend) == 512
