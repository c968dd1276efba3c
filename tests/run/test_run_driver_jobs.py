"""What a driver's job is given and when it is started again, without a backend."""

from __future__ import annotations

import io
import json
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.backends.definitions import driver_retry_strategy
from batch_pipeline.backends.quotas import MAX_RETRY_RULES
from batch_pipeline.config import load_settings
from batch_pipeline.localbatch.engine.job import AttemptOutcome, Rule
from batch_pipeline.localbatch.engine.retry import HOST_LOST, _fits
from batch_pipeline.pipeline.plan import Inventory, Selection
from batch_pipeline.pipeline.samples import SampleList, parse_samples
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.request import Request
from batch_pipeline.run.driver_bundle import PRICES, REQUEST, SAMPLES, SETTINGS, ordered_request, pack_driver
from batch_pipeline.run.driver_order import definition_of, require_remote_sources
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.manifest import SourceFile
from batch_pipeline.wire.order import DriverOrder
from batch_pipeline.wire.store import open_store
from examples.words import WordCount

ROLE = "arn:aws:iam::123456789012:role/driver"


def request_of(tmp_path: Path, **flags: Any) -> Request:
    settings = load_settings({"store.url": str(tmp_path / "store"), **flags}, environ={}, folder=tmp_path)
    return Request(
        workflow=WordCount,
        graph=Graph.of(WordCount),
        samples=SampleList.of(["ann", "bob"]),
        store=open_store(str(tmp_path / "store"), create=True),
        settings=settings,
        selection=Selection(samples=frozenset({"bob"}), steps=None, force=True, accept_code_changes=False),
        sources="texts",
        sheet_folder="/data",
        argv=("run", "--force"),
    )


def contents(request: Request) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(pack_driver(request).data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_bundle_has_what_the_command_saw(tmp_path: Path) -> None:
    request = request_of(tmp_path, **{"backend.queue": "mine", "tags.owner": "ada", "store.prefix": "deep"})
    files = contents(request)

    assert "words.py" in files
    assert any(name.endswith(".sh") for name in files)
    assert parse_samples(files[SAMPLES], SAMPLES).names == request.samples.names
    settings = tomllib.loads(files[SETTINGS].decode())
    assert (settings["backend"]["queue"], settings["backend"]["driver"]) == ("mine", "here")
    assert settings["tags"] == {"owner": "ada"}
    assert (settings["store"]["url"], settings["store"]["prefix"]) == (request.store.url, "")
    assert not {"access", "server"} & settings.keys()
    (tmp_path / "settings.toml").write_bytes(files[SETTINGS])
    load_settings(config=tmp_path / "settings.toml", environ={}, folder=tmp_path)


def test_prices_go_along_as_they_are_set_here(tmp_path: Path) -> None:
    """Prices that are written are those of any machine: defaults are not."""
    (tmp_path / "own.csv").write_text("a table\n")
    files = contents(request_of(tmp_path, **{"prices.file": str(tmp_path / "own.csv"), "prices.currency": "EUR"}))
    settings = tomllib.loads(files[SETTINGS].decode())
    assert settings["prices"] == {"currency": "EUR", "file": PRICES}
    assert files[PRICES] == b"a table\n"


def test_the_driver_means_the_cells_that_the_command_meant(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    (tmp_path / "request.json").write_bytes(contents(request)[REQUEST])
    bare = replace(request, selection=Selection(), sources="", sheet_folder=None, argv=())

    ordered = ordered_request(bare, tmp_path / "request.json")

    assert ordered.selection == request.selection
    assert (ordered.sources, ordered.sheet_folder, ordered.argv) == ("texts", "/data", ("run", "--force"))


def test_the_same_command_makes_the_same_bundle(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    assert pack_driver(request).sha256 == pack_driver(request).sha256
    assert pack_driver(replace(request, selection=Selection())).sha256 != pack_driver(request).sha256


def test_a_setting_that_looks_like_a_secret_is_refused(tmp_path: Path) -> None:
    request = request_of(tmp_path, **{"aws.s3_endpoint": "https://ada:hunter2@s3.example.org"})
    with pytest.raises(InvalidUse, match=r"\[aws\] looks like a secret"):
        pack_driver(request)


@pytest.mark.parametrize("url", ["https://example.org/hunter2", "env:HOOK", "secretsmanager:arn:aws:x"])
def test_the_url_of_a_webhook_goes_into_no_bundle(url: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidUse, match=r"the URL of notify\.url must not"):
        pack_driver(request_of(tmp_path, **{"notify.url": url}))


def test_a_driver_reads_the_url_of_a_webhook_where_its_job_can(tmp_path: Path) -> None:
    settings = tomllib.loads(contents(request_of(tmp_path, **{"notify.url": "file:hook"}))[SETTINGS].decode())
    assert settings["notify"]["url"] == f"file:{Path('hook').absolute()}"
    secret = "secretsmanager:arn:aws:secretsmanager:eu-west-1:123456789012:secret:hook-AbCdEf"
    flags = {"backend.name": "aws", "aws.region": "eu-west-1", "notify.url": secret}
    settings = tomllib.loads(contents(request_of(tmp_path, **flags))[SETTINGS].decode())
    assert settings["notify"]["url"] == secret


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"backend.name": "aws"}, "aws.driver_role is not set"),
        ({"backend.name": "aws", "aws.driver_role": ROLE}, "No image of the driver is pinned"),
        ({"embedded.container": "podman"}, "Drop --driver batch, or --container"),
        ({"pool.pilots": 2}, "Drop --driver batch, or --pilots"),
    ],
)
def test_what_a_driver_lacks_is_told_by_name(flags: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidUse, match=words):
        definition_of(request_of(tmp_path, **flags))


def test_a_source_on_this_machine_is_refused_for_a_driver_on_aws() -> None:
    def inventory(url: str) -> Inventory:
        return Inventory(sources={"ann": {"lower.text": (SourceFile(url=url, size_bytes=1, etag=""),)}})

    require_remote_sources(inventory("s3://data/ann.txt"))
    with pytest.raises(InvalidUse, match=r"file:///data/ann\.txt of sample 'ann' is a file of this machine"):
        require_remote_sources(inventory("file:///data/ann.txt"))


def test_a_driver_here_takes_no_vcpu_and_more_memory_for_more_samples(tmp_path: Path) -> None:
    request = request_of(tmp_path)
    many = replace(request, samples=SampleList.of([f"s{number}" for number in range(2_000)]))
    needs = [
        {
            item["type"]: float(item["value"])
            for item in definition_of(each)["containerProperties"]["resourceRequirements"]
        }
        for each in (request, many)
    ]
    assert [round(need["VCPU"] * 1000) for need in needs] == [0, 0]
    assert [need["MEMORY"] for need in needs] == [768, 778]


# Starting again.


def rules() -> Iterator[Rule]:
    for rule in driver_retry_strategy()["evaluateOnExit"]:
        yield Rule(
            retry=rule["action"] == "RETRY",
            on_status_reason=rule.get("onStatusReason"),
            on_reason=rule.get("onReason"),
            on_exit_code=rule.get("onExitCode"),
        )


@pytest.mark.parametrize(
    ("outcome", "again"),
    [
        (AttemptOutcome(exit_code=75), True),
        (AttemptOutcome(exit_code=69), True),
        (AttemptOutcome(exit_code=137), True),
        (AttemptOutcome(exit_code=None, status_reason=HOST_LOST), True),
        (AttemptOutcome(exit_code=1), False),
        (AttemptOutcome(exit_code=2), False),
        (AttemptOutcome(exit_code=3), False),
        (AttemptOutcome(exit_code=64), False),
    ],
)
def test_batch_starts_a_driver_again_that_was_interrupted_and_no_other(outcome: AttemptOutcome, again: bool) -> None:
    assert len(list(rules())) <= MAX_RETRY_RULES
    assert next(rule.retry for rule in rules() if _fits(rule, outcome)) is again


@pytest.mark.parametrize(
    ("code", "job_code"), [(0, None), (1, None), (2, None), (3, None), (4, 69), (130, 75), (137, 75), (143, 75)]
)
def test_the_end_of_a_pipeline_is_final_unless_it_was_killed_or_found_nobody(code: int, job_code: int | None) -> None:
    order = DriverOrder(run_id="R", dataset="", access_level="", user="ada", output="", script=("x",))
    assert replace(order, bundle_sha256="0" * 64).transient_exit(code) == job_code
    assert order.transient_exit(code) is None, "a script of submit"


def test_an_order_without_a_bundle_is_as_it_was(tmp_path: Path) -> None:
    order = DriverOrder(run_id="R", dataset="", access_level="", user="ada", output="", script=("x",))
    assert "bundle_sha256" not in order.to_json()
    with_bundle = replace(order, bundle_sha256="0" * 64)
    assert DriverOrder.from_json(json.loads(json.dumps(with_bundle.to_json()))).bundle_sha256 == "0" * 64
