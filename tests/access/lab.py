"""A policy, an ask that passes, and what was found out about it: for tests that change one thing at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from batch_pipeline.access.policy import DatasetPolicy, parse_policy
from batch_pipeline.access.request import AdmissionFacts, CodeFacts, EntryKind, ImageFacts, SubmitRequest, UserIdentity

SHA = "0123456789abcdef0123456789abcdef01234567"
HEAD = "fedcba9876543210fedcba9876543210fedcba98"
DIGEST = "sha256:" + "3fa9" * 16
REPOSITORY = "https://github.com/example/fusions"
ALICE = UserIdentity(name="alice@example.org", source="oidc")

POLICY = """
dataset = "fusions"

[[repositories]]
url = "https://github.com/example/fusions"
entry_points = ["main.py", "scripts/*.sh"]
secret = "env:FUSIONS_TOKEN"

[[images]]
repository = "registry.example.org/driver"
digests = ["sha256:3fa9"]

[levels.test]
store = "s3://fusions-test"
queue = "test"
job_role = "arn:aws:iam::111122223333:role/fusions-test"
members = ["*"]

[levels.standard]
store = "s3://fusions-main"
output_prefix = "analysis"
queue = "main"
job_role = "arn:aws:iam::111122223333:role/fusions-standard"
members = ["alice@example.org"]

[levels.full]
store = "s3://fusions-main"
queue = "main"
job_role = "arn:aws:iam::111122223333:role/fusions-full"
members = ["alice@example.org"]
"""


def policy(text: str = POLICY) -> DatasetPolicy:
    return parse_policy(text.encode(), "fusions.toml")


def ask(level: str = "standard", **changes: Any) -> SubmitRequest:
    base = SubmitRequest(
        dataset="fusions",
        description="The spring cohort",
        access_level=level,
        output_dir="cohort-7/v2",
        script=("scripts/cohort.sh", "7"),
        repository=REPOSITORY,
        commit=SHA,
        image="registry.example.org/driver:1",
        confirmed=level == "full",
    )
    return replace(base, **changes)


CODE = CodeFacts(
    repository=REPOSITORY,
    protected_branch="main",
    commit=SHA,
    tree="a" * 40,
    protected_head=HEAD,
    merged=True,
    branches=("main",),
    entry_kind=EntryKind.PROGRAM,
)
IMAGE = ImageFacts(repository="registry.example.org/driver", tag="1", digest=DIGEST)


def facts(*, code: dict[str, Any] | None = None, image: dict[str, Any] | None = None) -> AdmissionFacts:
    return AdmissionFacts(code=replace(CODE, **(code or {})), image=replace(IMAGE, **(image or {})))
