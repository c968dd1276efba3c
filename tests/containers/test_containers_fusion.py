"""The demonstration's whole cohort in the real images: built here, pushed to a registry, run by the embedded Batch with
an S3 server on loopback, and held against the demonstration itself, whose steps are processes of this machine.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from batch_pipeline.demo.cohort import Cohort, prepare, score
from batch_pipeline.localbatch.client import stop
from tests.containers.machine import BASE, Machine
from tests.containers.registry import await_port, free_port, serving
from tests.fusion.prompt import REPOSITORY, STEPS, Prompt, Said, environment

pytestmark = [
    pytest.mark.containers,
    pytest.mark.engine,
    pytest.mark.tools,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.xdist_group("containers"),
]

#: What the tools write of themselves: times, paths and command lines.
TALK = (".kallisto.log", "run_info.json")
#: Seconds for all images: a loaded machine of two cores takes half of them.
BUILDING = 900.0
#: Bytes that no image may exceed.
LARGEST = 700 << 20


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A prompt whose pipeline runs in containers, with its store in S3."""

    prompt: Prompt
    s3: Any
    samples: tuple[str, ...]

    def give(self, *words: str) -> Said:
        return self.prompt(*words, "--sample-list-file", "samples.txt", "--strandedness", "none")

    def keys(self, prefix: str) -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket="lab", Prefix=f"p/{prefix}")
        return sorted(item["Key"].removeprefix("p/") for page in pages for item in page.get("Contents", ()))

    def read(self, key: str) -> bytes:
        content: bytes = self.s3.get_object(Bucket="lab", Key=f"p/{key}")["Body"].read()
        return content

    def to_run(self) -> dict[str, int]:
        """Step -> cells that the next run would send."""
        plan = self.give("plan", "--json").json
        return {job["step"]: job["size"] for job in plan["jobs"]}


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[str, Any]]:
    """moto's S3 server, in a process of its own, with one bucket."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        await_port(port)
        url = f"http://127.0.0.1:{port}"
        keys: Any = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=url, **keys)
        client.create_bucket(Bucket="lab")
        yield url, client
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of `main.py demo`, given as everybody gives it."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "home").mkdir()
    (folder / "main.py").symlink_to(REPOSITORY / "main.py")
    Prompt(folder=folder, environment=environment(folder, folder / "cache"))("demo", "--folder", "demo")
    yield folder / "demo"
    stop(folder / "engine")


@pytest.fixture(scope="module")
def cohort(demo: Path) -> Cohort:
    return prepare(demo / "cohort")


@pytest.fixture(scope="module")
def lab(
    machine: Machine, s3: tuple[str, Any], cohort: Cohort, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("contained")
    (folder / "home").mkdir()
    for name in ("steps", "dockerfiles", "job_definitions"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "images.json"))
    (folder / "main.py").write_bytes((REPOSITORY / "main.py").read_bytes())
    (folder / "samples.txt").write_text(cohort.sample_list.read_text())
    url, client = s3
    with serving(tmp_path_factory.mktemp("registry")) as registry:
        told = {
            "PATH": machine.path,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_EC2_METADATA_DISABLED": "true",
            "BATCH_PIPELINE__AWS__REGION": "us-east-1",
            "BATCH_PIPELINE__AWS__S3_ENDPOINT": url,
            "BATCH_PIPELINE__STORE__URL": "s3://lab/p",
            "BATCH_PIPELINE__EMBEDDED__CONTAINER": "podman",
            "BATCH_PIPELINE__DEPLOY__REGISTRY": f"{registry.host}/fusions",
            "BATCH_PIPELINE__DEPLOY__BUILDER": "podman",
            "BATCH_PIPELINE__DEPLOY__BASE_IMAGE": BASE,
        }
        prompt = Prompt(folder=folder, environment={**environment(folder, folder / "cache"), **told})
        for sample in cohort.samples:
            client.put_object(Bucket="lab", Key=f"p/SR/{sample}.bam", Body=cohort.bam(sample).read_bytes())
        try:
            prompt("deploy", "images", "--push", patience=BUILDING)
            prompt("reference", cohort.reference, "--fasta", str(cohort.fasta), "--gtf", str(cohort.gtf))
            made = Lab(prompt=prompt, s3=client, samples=cohort.samples)
            made.give("run")
            yield made
        finally:
            stop(folder / "engine")
            keep_layers(machine, registry.host)


def keep_layers(machine: Machine, host: str) -> None:
    """Leaves the images under names of the tests' own, so that the next ones build upon their layers; none older."""
    shape = "{{.Repository}}:{{.Tag}}"
    found = machine.podman("images", "--format", shape, "--filter", f"reference={host}/*/*").split()
    # podman lists all names of an image, other tests' among them.
    tags = [tag for tag in found if tag.startswith(f"{host}/") and not tag.endswith("<none>")]
    for tag in tags:
        name = tag.rpartition(":")[0].rpartition("/")[2]
        machine.podman("tag", tag, f"localhost/batch-pipeline/cache/{name}:{tag.rpartition(':')[2]}")
    machine.podman("rmi", *tags) if tags else None
    kept = machine.podman("images", "--format", shape, "--filter", "reference=localhost/batch-pipeline/cache/*").split()
    recent = {tag.rpartition(":")[2] for tag in tags}
    if old := [tag for tag in kept if tag.rpartition(":")[2] not in recent]:
        machine.podman("rmi", *old)


def test_the_fusions_are_those_that_are_in_the_samples(lab: Lab, cohort: Cohort, tmp_path: Path) -> None:
    results = {sample: tmp_path / f"{sample}.json" for sample in cohort.samples}
    for sample, path in results.items():
        path.write_bytes(lab.read(f"results/pizzly/{sample}/{sample}.json"))
    judged = score(cohort, results)
    assert judged.perfect, judged.sentence
    assert judged.detected == len(cohort.truth) >= 9


def test_the_results_are_those_of_the_demonstration_byte_by_byte(lab: Lab, demo: Path) -> None:
    store = demo / "store"
    made = {str(path.relative_to(store)): path for path in (store / "results").rglob("*") if path.is_file()}
    assert lab.keys("results/") == sorted(made)
    compared = [key for key in made if not key.endswith(TALK)]
    assert len(compared) >= 8 * len(lab.samples)
    assert [key for key in compared if lab.read(key) != made[key].read_bytes()] == []


def test_cells_ran_in_their_images_and_left_nothing(lab: Lab, machine: Machine) -> None:
    pins = json.loads((lab.prompt.folder / "dockerfiles" / "images.json").read_text())["images"]
    [run] = {key.split("/")[1] for key in lab.keys("runs/") if "picard" in key}
    record = b"".join(lab.read(f"runs/{run}/{name}.json") for name in ("run", "plan", "definitions"))
    assert all(pins[step]["image"].encode() in record for step in STEPS)
    assert len(lab.keys("receipts/picard/")) == len(lab.samples)
    assert machine.containers(lab.prompt.folder / "engine", "--all") == []


def test_no_image_is_large(lab: Lab, machine: Machine) -> None:
    pins = json.loads((lab.prompt.folder / "dockerfiles" / "images.json").read_text())["images"]
    # By their tags: podman knows no image that it pushed and never pulled by the registry's digest.
    reference = f"reference={pins['base']['image'].rpartition('/')[0]}/*"
    images = machine.podman("images", "--quiet", "--filter", reference).split()
    shape = "{{.RepoTags}} {{.Size}}"
    lines = machine.podman("inspect", "--type", "image", "--format", shape, *dict.fromkeys(images)).splitlines()
    assert len(lines) >= len(pins)
    assert [line for line in lines if int(line.split()[-1]) > LARGEST] == []


def test_an_image_with_another_tool_runs_its_step_and_what_follows_again(lab: Lab) -> None:
    assert lab.to_run() == {}
    # The same tool, in a wrapper that tells.
    lines = (
        "USER root",
        "RUN printf '#!/bin/sh\\necho another kallisto >&2\\nexec /usr/bin/kallisto \"$@\"\\n' \\",
        " >/usr/local/bin/kallisto && chmod 755 /usr/local/bin/kallisto",
        "USER batch",
    )
    with lab.prompt.edited("dockerfiles/kallisto/Dockerfile", lambda text: "\n".join((text, *lines, ""))):
        images = lab.prompt("deploy", "images", "--push", "--json").json["images"]
        assert [image["name"] for image in images if image["new"]] == ["kallisto"]
        samples = len(lab.samples)
        assert lab.to_run() == {"kallisto": samples, "pizzly": samples, "cohort": 1, "multiqc": 1}
        before = lab.keys("receipts/picard/")
        lab.give("run")
        assert lab.keys("receipts/picard/") == before
        assert lab.to_run() == {}
        newest = max(key for key in lab.keys("logs/") if "/kallisto/sim01/" in key)
        assert b"another kallisto" in lab.read(newest)
