"""A whole run with its store in S3, on the embedded Batch: client, server and workers as a user has them."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline.localbatch.client import stop
from tests.s3.conftest import BUCKET, REGION, Service

pytestmark = pytest.mark.moto

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = ROOT / "tests" / "flow" / "letters" / "chain.py"
KEY = "alias/lab"
SECRET = "of-the-lab-and-nobody-else"


class Bench:
    """A user's machine: a home with a profile, a folder, and the commands given there."""

    def __init__(self, folder: Path, service: Service) -> None:
        self.home = folder / "home"
        self.state = folder / "state"
        self.folder = folder
        (self.home / ".aws").mkdir(parents=True)
        (self.home / ".aws" / "credentials").write_text(
            f"[lab]\naws_access_key_id = LABKEY\naws_secret_access_key = {SECRET}\nregion = {REGION}\n"
        )
        (folder / "texts").mkdir()
        for name in ("ann", "bob"):
            (folder / "texts" / f"{name}.txt").write_text(f"The words of {name}\n")
        (folder / "samples.txt").write_text("ann\nbob\n")
        (folder / "batch_pipeline.toml").write_text(
            f'[store]\nurl = "s3://{BUCKET}/projects/letters"\nkms_key = "{KEY}"\n'
            f'[aws]\ns3_endpoint = "{service.url}"\nprofile = "lab"\n'
            f'[embedded]\nstate = "{self.state}"\nvcpus = 2\nidle_seconds = 60\n[watch]\npoll_seconds = 0.2\n'
        )

    def run(self, *words: str, code: int = 0, **variables: str) -> str:
        done = subprocess.run(
            [sys.executable, str(PIPELINE), *words],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "PYTHONPATH": str(ROOT),
                "AWS_EC2_METADATA_DISABLED": "true",
                **variables,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def bench(tmp_path: Path, service: Service) -> Iterator[Bench]:
    made = Bench(tmp_path, service)
    yield made
    stop(made.state)


def run_options() -> list[str]:
    return ["--sample-list-file", "samples.txt", "--sources", "./texts"]


@pytest.mark.engine
def test_a_run_lives_in_s3_encrypted_and_without_a_secret_in_any_record(bench: Bench, service: Service) -> None:
    bench.run("run", *run_options())
    prefix = "projects/letters/"
    keys = service.keys()
    assert all(key.startswith(prefix) for key in keys)
    receipts = [key for key in keys if key.startswith(f"{prefix}receipts/")]
    assert len(receipts) == 5
    assert b"ann" in service.read(f"{prefix}cohort/count/words.tsv")
    assert service.read(f"{prefix}results/lower/ann/ann.lower.txt") == b"the words of ann\n"

    # Everybody was the profile, and whatever was written is encrypted by the key.
    theirs = [one for one in service.asked if one.key_id != "admin"]
    assert {one.key_id for one in theirs} == {"LABKEY"}
    begun = [one for one in service.writes() if "partNumber" not in one.query]
    assert {one.headers.get("x-amz-server-side-encryption-aws-kms-key-id") for one in begun} == {KEY}
    assert {one.headers["authorization"].split("/")[2] for one in begun} == {REGION}

    # No secret in the store, the jobs' environment or the server's state.
    assert not [key for key in keys if SECRET.encode() in service.read(key)]
    assert not [path for path in bench.state.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    jobs = sqlite3.connect(bench.state / "batch.sqlite")
    told = "\n".join(jobs.iterdump())
    jobs.close()
    assert service.url in told
    assert KEY in told
    assert "LABKEY" not in told

    # Nothing is left to do, and telling so costs a few listings.
    service.asked.clear()
    assert "nothing" in bench.run("run", *run_options()).lower()
    # An empty listing of an endpoint that is not AWS is asked about once: a web page would look the same.
    assert [one.method for one in service.asked].count("HEAD") <= 1
    assert {one.method for one in service.asked} <= {"GET", "HEAD"}
    assert len(service.asked) <= 6
    bench.run("logs", "ann", "lower")
    status = json.loads(bench.run("status", *run_options(), "--json"))
    assert status


@pytest.mark.engine
def test_a_bucket_or_profile_that_is_not_there_is_told_in_a_sentence(bench: Bench) -> None:
    text = bench.run("run", *run_options(), "--store", "s3://absent/prefix", code=4)
    assert "there is no such bucket" in text
    assert "Traceback" not in text
    text = bench.run("run", *run_options(), code=2, BATCH_PIPELINE__AWS__PROFILE="nobody")
    assert "aws.profile" in text
