"""The report of a run by the service: the bytes of the command, for who may see the run, under a policy of its own."""

from __future__ import annotations

import re
from typing import Any

import pytest

from batch_pipeline.access.service import reports
from batch_pipeline.backends.prices import tariff_of
from batch_pipeline.records.registry import resolve
from batch_pipeline.report.page.details import cells_to_detail, read_details
from batch_pipeline.report.page.document import PageOptions, page_of_run
from batch_pipeline.report.page.source import read_run
from tests.access.service.lab import BOB, Lab
from tests.run.small import Stage, drive, request_of

MOMENT = "2026-11-30T19:00:00.000Z"


@pytest.fixture
def run_id(lab: Lab) -> str:
    """A run in which a cell failed."""
    store = lab.store()
    stage = Stage(store, lambda step, sample, _: int((step, sample) == ("upper", "bob")))
    return str(drive(request_of(store), stage).run_ids[0])


def test_its_bytes_are_those_of_the_command(lab: Lab, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "now", lambda: MOMENT)
    answer = lab.client().page(f"/runs/{run_id}/report")
    store = lab.store()
    source = read_run(store, lab.settings, resolve(store, run_id))
    details = read_details(store, run_id, cells_to_detail(source.failed), ())
    options = PageOptions(program=["batch-pipeline"], written_at=MOMENT, tariff=tariff_of(lab.settings))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text == "".join(page_of_run(source, details, options))
    assert "upper of bob broke." in answer.text


def test_its_policy_lets_its_own_script_run_in_a_sandbox_and_nothing_else(lab: Lab, run_id: str) -> None:
    answer = lab.client().page(f"/runs/{run_id}/report")
    policy = answer.headers["content-security-policy"]
    within = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', answer.text)
    assert within is not None
    assert policy.startswith(f"{within[1]}; sandbox allow-scripts allow-downloads;")
    assert "allow-same-origin" not in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-frame-options"] == "DENY"


def test_the_page_of_the_run_leads_to_it(lab: Lab, run_id: str) -> None:
    assert f'href="/runs/{run_id}/report"' in lab.client().page(f"/runs/{run_id}").text


def test_who_may_not_see_the_run_may_not_see_its_report(lab: Lab, run_id: str) -> None:
    assert lab.client(None).get(f"/runs/{run_id}/report").status_code == 401
    of_bob = lab.client(lab.issuer.token(email=BOB)).get(f"/runs/{run_id}/report")
    missing = lab.client().get("/runs/01JD0000000000000000000000/report")
    assert (of_bob.status_code, missing.status_code) == (404, 404)
    assert of_bob.json()["error"] == missing.json()["error"]


def test_a_driver_has_one_too(lab: Lab) -> None:
    answer = lab.client().page(f"/runs/{lab.record()}/report")
    assert answer.status_code == 200
    assert "This run runs a script, and has no cells of its own." in answer.text


def test_a_run_that_is_too_large_is_left_to_the_command(lab: Lab) -> None:
    run_id = lab.record(samples=1_000_000)
    answer = lab.client().get(f"/runs/{run_id}/report")
    assert answer.status_code == 400
    assert answer.json()["error"] == (
        "The run has 1,000,000 samples; the service makes pages of at most 100,000. Run"
        f" `batch-pipeline report {run_id} --store URL`."
    )


def test_one_page_is_made_at_a_time(lab: Lab, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = lab.app()
    inner: list[Any] = []

    def reading(*arguments: Any) -> Any:
        inner.append(lab.client(app=app).get(f"/runs/{run_id}/report"))
        return read_run(*arguments)

    monkeypatch.setattr(reports, "read_run", reading)
    client = lab.client(app=app)
    assert client.get(f"/runs/{run_id}/report").status_code == 200
    assert [(answer.status_code, answer.headers["retry-after"]) for answer in inner] == [(429, "6")]
    monkeypatch.setattr(reports, "read_run", read_run)
    assert client.get(f"/runs/{run_id}/report").status_code == 200
