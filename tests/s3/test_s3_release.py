"""Releases in S3: copied by S3 itself within a bucket, through this machine between buckets."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from batch_pipeline.provenance.release import release
from batch_pipeline.provenance.trace import trace
from batch_pipeline.provenance.transfer import FileToCopy, Transfer
from batch_pipeline.provenance.verify import promises_below, verify
from batch_pipeline.records.record import read_record
from batch_pipeline.wire.errors import StoreFailed
from batch_pipeline.wire.store import Store, open_store
from tests.provenance.made import Maker
from tests.run.small import drive, request_of
from tests.s3.conftest import REGION, Service
from tests.s3.test_s3_store import access_of, store_of

pytestmark = pytest.mark.moto


@pytest.fixture
def store(service: Service) -> Store:
    return store_of(service)


@pytest.fixture
def other(service: Service) -> Store:
    """A store in another bucket."""
    service.client().create_bucket(Bucket="release", CreateBucketConfiguration={"LocationConstraint": REGION})
    return open_store("s3://release/of/the lab", reach=access_of(service))


def copies(service: Service) -> list[str]:
    """Objects that S3 copied itself."""
    return [one.path for one in service.asked if "x-amz-copy-source" in one.headers]


def test_a_run_is_released_traced_and_verified_in_s3(service: Service, store: Store) -> None:
    run = read_record(store, drive(request_of(store), Maker(store)).run_ids[0])

    told = release(store, run, store)

    assert len(copies(service)) == told.files
    assert not [one for one in verify(store, promises_below(store, told.prefix)) if one.problem]
    assert trace(store, store.url_of(f"{told.prefix}cohort/total/total.txt")).problems == []


def test_another_bucket_gets_what_went_through_this_machine(
    service: Service, store: Store, other: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    data = os.urandom(9 << 20)
    store.put("big", data)
    store.put("small", b"x")
    files = [FileToCopy(key="big", size_bytes=len(data)), FileToCopy(key="small", size_bytes=1)]

    copied = Transfer(store, other, files, "at/").copy_all(lambda file: None)

    assert copies(service) == []
    assert other.get("at/big") == data
    assert [file.sha256 for file in copied] == [hashlib.sha256(one).hexdigest() for one in (data, b"x")]
    assert list(tmp_path.iterdir()) == []


def test_what_s3_copied_is_held_against_its_size(service: Service, store: Store) -> None:
    store.put("file", b"0123456789")
    with pytest.raises(StoreFailed, match="has not the 11 bytes"):
        Transfer(store, store, [FileToCopy(key="file", size_bytes=11)], "at/").copy_all(lambda file: None)


def test_what_s3_does_not_copy_goes_through_this_machine(
    service: Service, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("The specified copy source is larger than the maximum allowable size.")

    monkeypatch.setattr("obstore.copy", refuse)
    store.put("file", b"0123456789")
    (copied,) = Transfer(store, store, [FileToCopy(key="file", size_bytes=10)], "at/").copy_all(lambda file: None)
    assert store.get("at/file") == b"0123456789"
    assert copied.sha256 == hashlib.sha256(b"0123456789").hexdigest()
    assert service.read("some/prefix/at/file") == b"0123456789"
