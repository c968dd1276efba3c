"""What is asked of AWS for a driver: the digest behind a tag, a secret by its ARN, and who we are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from batch_pipeline.access.admission_context import admission_context_of, identity_of
from batch_pipeline.access.images import image_name
from batch_pipeline.backends.account import Account, NotVisible
from batch_pipeline.backends.batch import BatchBackend
from batch_pipeline.config import load_settings
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.errors import BackendFailed

pytestmark = pytest.mark.moto

REGION = "eu-central-1"
REGISTRY = f"123456789012.dkr.ecr.{REGION}.amazonaws.com"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    from moto import mock_aws

    with mock_aws():
        yield


@pytest.fixture
def backend(aws: None) -> BatchBackend:
    return BatchBackend(load_settings({"backend.name": "aws", "aws.region": REGION}, environ={}))


def pushed(tag: str, content: str) -> str:
    """Puts an image under a tag; its digest."""
    ecr: Any = boto3.client("ecr", region_name=REGION)
    if not ecr.describe_repositories()["repositories"]:
        ecr.create_repository(repositoryName="team/driver")
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": {"digest": content, "size": 1}, "layers": []}
    text = json.dumps(manifest)
    # moto takes the digest that it is told, and of another manifest would tell the same.
    digest = f"sha256:{sha256_of_bytes(text.encode())}"
    told = ecr.put_image(repositoryName="team/driver", imageManifest=text, imageTag=tag, imageDigest=digest)
    return str(told["image"]["imageId"]["imageDigest"])


def test_a_tag_is_what_it_leads_to_now(backend: BatchBackend) -> None:
    images = admission_context_of(load_settings(environ={}), backend).images
    assert images is not None
    name = image_name(f"{REGISTRY}/team/driver:1")
    first = pushed("1", "sha256:" + "a" * 64)
    assert images(name) == first
    second = pushed("1", "sha256:" + "b" * 64)
    assert second != first
    assert images(name) == second
    assert backend.account.has_image(f"{REGISTRY}/team/driver@{second}")


def test_an_image_that_is_not_there_has_no_digest(backend: BatchBackend) -> None:
    pushed("1", "sha256:" + "a" * 64)
    account: Account = backend.account
    assert account.image_digest(f"{REGISTRY}/team/driver:2") == ""
    assert account.image_digest(f"{REGISTRY}/team/other:1") == ""
    assert not account.has_image(f"{REGISTRY}/team/driver:2")


def test_an_image_elsewhere_is_not_ecrs_to_tell(backend: BatchBackend) -> None:
    with pytest.raises(NotVisible):
        backend.account.image_digest("registry.example.org/team/driver:1")


def test_a_secret_is_read_by_its_reference(backend: BatchBackend) -> None:
    made = boto3.client("secretsmanager", region_name=REGION).create_secret(Name="git", SecretString="hunter2")
    desk = admission_context_of(load_settings(environ={}), backend)
    assert desk.tokens(f"secretsmanager:{made['ARN']}") == "hunter2"
    with pytest.raises(BackendFailed):
        desk.tokens(f"secretsmanager:{made['ARN'].replace('git', 'not')}")


def test_who_asks_is_whom_sts_names(backend: BatchBackend) -> None:
    found = identity_of(backend)
    assert found.source == "sts"
    assert found.name.startswith("arn:aws:sts::123456789012:")
