"""The service's results and runs where the dataset's stores are in S3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from batch_pipeline.access.service.catalogue import Catalogue
from batch_pipeline.records.history import new_run_id
from batch_pipeline.records.record import RunRecord
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.store import open_store
from tests.access.service.lab import Client, Lab
from tests.access.service.oidc import Issuer
from tests.s3.conftest import BUCKET, Service
from tests.s3.test_s3_store import access_of

pytestmark = pytest.mark.moto

DATA = bytes(range(256)) * 40_000  # ten megabytes


@pytest.fixture
def client(service: Service, tmp_path: Path) -> Iterator[Client]:
    """alice's, of a service whose dataset `fusions` is in the bucket."""
    issuer = Issuer()
    lab = Lab(tmp_path, issuer)
    policy = tmp_path / "policies" / "fusions.toml"
    policy.write_text(policy.read_text().replace(f"{tmp_path}/fusions", f"s3://{BUCKET}/fusions"))
    catalogue = Catalogue(str(tmp_path / "policies"), lambda url: open_store(url, reach=access_of(service)))
    yield lab.client(catalogue=catalogue)
    issuer.close()


def put(service: Service, key: str, data: bytes) -> None:
    service.client().put_object(Bucket=BUCKET, Key=f"fusions-test/{key}", Body=data)


def test_a_file_is_streamed_and_of_a_range_no_more_is_read(service: Service, client: Client) -> None:
    put(service, "analysis/cohort-7/reads.bam", DATA)
    whole = client.get("/fusions/test/cohort-7/reads.bam")
    assert (len(whole.content), sha256_of_bytes(whole.content)) == (len(DATA), sha256_of_bytes(DATA))
    service.asked.clear()
    part = client.get("/fusions/test/cohort-7/reads.bam", headers={"Range": "bytes=9000000-9000009"})
    assert (part.status_code, part.content) == (206, DATA[9_000_000:9_000_010])
    assert part.headers["etag"] == whole.headers["etag"]
    assert [(one.method, one.headers.get("range")) for one in service.asked] == [
        ("HEAD", None),
        ("GET", "bytes=9000000-9000009"),
    ]
    again = client.get("/fusions/test/cohort-7/reads.bam", headers={"If-None-Match": whole.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.slow
def test_folders_are_listed_over_pages(service: Service, client: Client) -> None:
    store = open_store(f"s3://{BUCKET}/fusions-test", reach=access_of(service))
    for number in range(1001):
        store.put(f"analysis/cohort-7/{number:04}.txt", b"x")
    put(service, "analysis/cohort-7/plots/a.png", b"x")
    told = client.get("/fusions/test/cohort-7/").json()
    assert told["folders"] == ["plots"]
    assert [file["name"] for file in told["files"]] == [f"{number:04}.txt" for number in range(1001)]
    assert client.get("/fusions/test/cohort-7").headers["location"] == "cohort-7/"


@pytest.mark.parametrize(
    "path", ["nothing.txt", "nothing/", "%2e%2e/secret.txt", "../secret.txt", "a/../../secret.txt"]
)
def test_what_is_outside_is_not_there(path: str, service: Service, client: Client) -> None:
    put(service, "secret.txt", b"the secret above the area")
    status, body = client.get_raw(f"/fusions/test/{path}")
    assert status in (400, 404)
    assert b"the secret" not in body


def test_runs_are_found_and_shown(service: Service, client: Client) -> None:
    record = RunRecord(
        run_id=new_run_id(),
        started_at="2026-11-20T10:00:00.000Z",
        dataset="fusions",
        access_level="test",
        output_prefix="analysis/cohort-7",
    )
    put(service, f"runs/{record.run_id}/run.json", json.dumps(asdict(record)).encode())
    (run,) = client.get("/runs?status=live").json()["runs"]
    assert run["results"] == "/fusions/test/cohort-7/"
    assert client.get(f"/runs/{record.run_id}").json()["record"]["output_prefix"] == "analysis/cohort-7"
