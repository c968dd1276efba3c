from __future__ import annotations

import os
from typing import Any

import pytest

from batch_pipeline.config import load_settings
from batch_pipeline.run.room import embedded_room, require_room
from batch_pipeline.wire.errors import InvalidUse


def definition(vcpus: str, memory: str) -> dict[str, Any]:
    wanted = [{"type": "VCPU", "value": vcpus}, {"type": "MEMORY", "value": memory}]
    return {"containerProperties": {"image": "x", "resourceRequirements": wanted}}


DEFINITIONS = {"small": definition("1", "512"), "wide": definition("3", "512"), "large": definition("1", "6144")}


def test_a_step_that_can_never_start_is_told_with_the_setting_that_helps() -> None:
    settings = load_settings({"embedded.vcpus": 2, "embedded.memory_mb": 4096})
    require_room(settings, DEFINITIONS, ["small"])
    with pytest.raises(InvalidUse, match=r"Step wide asks for 3 vCPUs .* has 2, .*EMBEDDED__VCPUS=3"):
        require_room(settings, DEFINITIONS, ["small", "wide"])
    with pytest.raises(InvalidUse, match=r"Step large asks for 6,144 MiB of memory .* has 4,096, .*MEMORY_MB=6144"):
        require_room(settings, DEFINITIONS, ["large"])


def test_on_aws_the_compute_environments_decide() -> None:
    require_room(load_settings({"backend.name": "aws", "embedded.memory_mb": 1024}), DEFINITIONS, ["large"])


def test_what_is_not_set_is_what_the_machine_has() -> None:
    vcpus, memory_mb = embedded_room(load_settings().embedded)
    assert vcpus == len(os.sched_getaffinity(0))
    assert memory_mb * 2**20 <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory_mb > 0
    assert embedded_room(load_settings({"embedded.vcpus": 3, "embedded.memory_mb": 512}).embedded) == (3, 512)
