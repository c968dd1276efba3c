"""Starting, finding and showing runs over HTTP: who may, what is told, and what is written down."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from batch_pipeline.access.request import SubmitRequest, UserIdentity
from batch_pipeline.access.service.audit import AuditLog
from batch_pipeline.access.service.catalogue import Catalogue
from batch_pipeline.access.service.guard import MOST_BODY_BYTES
from batch_pipeline.access.service.limits import Limiter
from batch_pipeline.access.service.models import Started
from batch_pipeline.wire.errors import BackendFailed, RepositoryFailed, StoreFailed
from batch_pipeline.wire.store import Store, open_store
from tests.access.service.lab import ALICE, BOB, Lab


def test_a_run_is_recorded_and_told(lab: Lab) -> None:
    answer = lab.client().post("/runs", json=lab.ask())
    assert answer.status_code == 201
    run_id = answer.json()["run_id"]
    assert answer.headers["location"] == f"/runs/{run_id}"
    record = lab.store().get_json(f"runs/{run_id}/run.json")
    assert (record["user"], record["dataset"], record["argv"]) == (ALICE, "fusions", ["echo", "hello"])
    assert record["identity_source"] == "oidc"


def test_the_token_may_come_in_the_header_of_a_proxy(lab: Lab) -> None:
    client = lab.client(None, token_header="X-Auth-Request-Id-Token")
    assert client.get("/runs", headers={"X-Auth-Request-Id-Token": lab.issuer.token()}).status_code == 200
    assert client.get("/runs", headers={"X-Auth-Request-Id-Token": "alice@example.org"}).status_code == 401
    assert client.get("/runs", headers={"X-Forwarded-Email": ALICE}).status_code == 401


def test_a_header_that_no_proxy_was_named_for_is_nothing(lab: Lab) -> None:
    answer = lab.client(None).get("/runs", headers={"X-Auth-Request-Id-Token": lab.issuer.token()})
    assert answer.status_code == 401


@pytest.mark.parametrize("url", ["/runs", "/", "/runs/01KAJPZ8T2B6V5Q0X3M9C7N4RD", "/fusions/", "/fusions/test/"])
def test_nobody_sees_nothing(url: str, lab: Lab) -> None:
    lab.record(run_id="01KAJPZ8T2B6V5Q0X3M9C7N4RD")
    answer = lab.client(None).get(url)
    assert answer.status_code == 401
    assert "fusions" not in answer.text


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "another's dataset": ({"dataset": "methylation"}, 403, "membership"),
    "a dataset that there is not": ({"dataset": "nothing"}, 403, "--dataset"),
    "a dataset that is a path": ({"dataset": "../fusions"}, 403, "--dataset"),
    "a level that there is not": ({"access_level": "root"}, 400, "--access-level"),
    "a level that the policy leaves out": ({"access_level": "full"}, 403, "--access-level"),
    "code that nobody reviewed": ({"access_level": "standard"}, 403, "--repository"),
    "an output outside": ({"output_dir": "../../etc"}, 400, "--output-dir"),
    "an output that is a URL": ({"output_dir": "s3://elsewhere/x"}, 400, "--output-dir"),
    "an identity of AWS": ({"environment": {"AWS_PROFILE": "admin"}}, 403, "--env"),
    "a level in the configuration": ({"config": {"workflow": {"access_level": "full"}}}, 403, "--config"),
    "a repository with a password": ({"repository": "https://a:hunter2@x/y", "commit": "3fa9" * 10}, 403, "--repo"),
}


@pytest.mark.parametrize("attempt", REFUSED)
def test_what_the_gate_refuses_is_refused_here(attempt: str, lab: Lab) -> None:
    changes, status, thing = REFUSED[attempt]
    answer = lab.client().post("/runs", json=lab.ask(**changes))
    assert answer.status_code == status
    told = answer.json()
    assert any(problem["thing"].startswith(thing) for problem in told["problems"])
    assert told["request_id"] == answer.headers["x-request-id"]
    assert "hunter2" not in answer.text
    assert "Traceback" not in answer.text
    assert list(lab.store().folders("runs/")) == []


MALFORMED: dict[str, Any] = {
    "an unknown key": {"identity": "bob"},
    "who says who they are": {"user": "bob"},
    "a number in quotes": {"cpu": "1"},
    "no number": {"cpu": float("nan")},
    "a script in one text": {"script": "echo hello"},
    "no script": {"script": []},
    "nothing in the configuration": {"config": {"a": None}},
    "half a character": {"description": "\ud800"},
    "half a character in the configuration": {"config": {"a": ["\ud800"]}},
    "a number beyond 64 bits": {"config": {"a": 1 << 70}},
    "a variable that is a number": {"environment": {"A": 1}},
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_not_of_its_form_is_told_by_name(case: str, lab: Lab) -> None:
    body = json.dumps(lab.ask(**MALFORMED[case])).encode()
    answer = lab.client().post("/runs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["problems"]
    assert list(lab.store().folders("runs/")) == []


def test_a_configuration_as_deep_as_a_well_is_refused(lab: Lab) -> None:
    deep = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
    answer = lab.client().post("/runs", content=deep, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_form_of_another_page_starts_nothing(kind: str, lab: Lab) -> None:
    answer = lab.client().post("/runs", content=json.dumps(lab.ask()), headers={"Content-Type": kind})
    assert answer.status_code == 422


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_from_elsewhere_starts_nothing(site: str, lab: Lab) -> None:
    assert lab.client().post("/runs", json=lab.ask(), headers={"Sec-Fetch-Site": site}).status_code == 403
    assert list(lab.store().folders("runs/")) == []


def test_a_large_request_is_not_read_to_its_end(lab: Lab) -> None:
    answer = lab.client().post("/runs", content=b"x" * (MOST_BODY_BYTES + 1))
    assert answer.status_code == 413


def test_a_request_that_lies_about_its_size_is_stopped_too(lab: Lab) -> None:
    async def endless() -> Any:
        for _ in range(MOST_BODY_BYTES // 65_536 + 1):
            yield b"x" * 65_536

    assert lab.client().post("/runs", content=endless()).status_code == 413


def test_a_request_that_never_ends_is_sent_away(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch_pipeline.access.service.guard._BODY_SECONDS", 0.05)
    asked: list[Message] = []
    sent: list[Message] = []

    async def receive() -> Message:
        asked.append({})
        await asyncio.Event().wait()
        raise AssertionError("never")

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/runs", "headers": [], "client": ("127.0.0.1", 1)}
    asyncio.run(lab.app()(scope, receive, send))
    assert (len(asked), sent[0]["status"]) == (1, 413)


FAILURES = {
    502: BackendFailed("AWS said no."),
    503: StoreFailed("s3://secret-bucket/prefix is not there."),
    500: ZeroDivisionError("a defect"),
}


@pytest.mark.parametrize("status", FAILURES)
def test_what_fails_behind_the_gate_is_told_without_its_insides(
    status: int, lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    def start(ask: SubmitRequest, identity: UserIdentity) -> Started:
        raise FAILURES[status]

    answer = lab.client(start=start).post("/runs", json=lab.ask())
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "problems", "request_id"}
    assert all(word not in answer.text for word in ("Traceback", "secret-bucket", "ZeroDivision", "File "))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert lab.audit()[-1]["decision"] == "failed"
    # Whoever runs the service finds the rest under the request's id.
    assert answer.json()["request_id"] in caplog.text
    assert status != 503 or "secret-bucket" in caplog.text


def test_a_message_with_a_password_is_told_without_it(lab: Lab) -> None:
    def start(ask: SubmitRequest, identity: UserIdentity) -> Started:
        raise RepositoryFailed("git: https://x:hunter2@example.org/code is not there.")

    answer = lab.client(start=start).post("/runs", json=lab.ask())
    assert answer.status_code == 502
    assert "hunter2" not in answer.text


# The audit log.


def test_a_run_is_written_down_before_it_is_started_and_when_it_was_decided(lab: Lab) -> None:
    token = lab.issuer.token()
    answer = lab.client(token).post("/runs", json=lab.ask(environment={"DEPTH": "hunter2"}))
    asked, answered = lab.audit()
    assert (asked["event"], asked["user"], asked["dataset"], asked["level"]) == ("asked", ALICE, "fusions", "test")
    assert (answered["decision"], answered["status"]) == ("allowed", 201)
    assert answered["run_id"] == answer.json()["run_id"]
    assert asked["request_id"] == answered["request_id"] == answer.headers["x-request-id"]
    text = lab.audit_file.read_text()
    assert "hunter2" not in text
    assert all(part not in text for part in token.split("."))
    assert lab.audit_file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("user", ["x:hunter2", "hunter2"])
@pytest.mark.parametrize("where", ["repository", "image", "output_dir"])
def test_a_password_in_a_url_is_not_written_down(where: str, user: str, lab: Lab) -> None:
    asked = lab.ask(
        **{"repository": "https://example.org/x", "commit": "main", where: f"https://{user}@example.org/code"}
    )
    assert lab.client().post("/runs", json=asked).status_code in (400, 403)
    assert [told["event"] for told in lab.audit()] == ["asked", "answered"]
    assert "hunter2" not in lab.audit_file.read_text()


def test_a_refusal_is_written_down_with_its_reasons(lab: Lab) -> None:
    lab.client().post("/runs", json=lab.ask(output_dir="..", environment={"PATH": "x"}))
    assert lab.audit()[-1]["problems"] == ["--output-dir '..'", "--env PATH"]


def test_nothing_starts_that_cannot_be_written_down(lab: Lab, tmp_path: Path) -> None:
    started: list[SubmitRequest] = []

    def start(ask: SubmitRequest, identity: UserIdentity) -> Started:
        started.append(ask)
        return lab.start(ask, identity)

    (tmp_path / "file").write_text("")
    audit = AuditLog(tmp_path / "file" / "audit.jsonl")
    client = lab.client(audit=audit, start=start)
    assert client.post("/runs", json=lab.ask()).status_code == 503
    assert client.get("/runs").status_code == 503
    assert started == []


def test_what_disguises_text_stays_an_escape_in_the_log(lab: Lab) -> None:
    lab.client().get_raw("/fusions/test/%E2%80%AEgnp.exe")
    assert "\\u202e" in lab.audit_file.read_text()
    assert lab.audit_file.read_text().isascii()


def test_a_line_that_was_written_in_part_is_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.write", lambda handle, data: len(data) - 1)
    with pytest.raises(StoreFailed, match="cannot be written"):
        AuditLog(tmp_path / "audit.jsonl").write(event="asked")


def test_a_link_in_the_audit_logs_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreFailed):
        AuditLog(tmp_path / "audit.jsonl").write(event="asked")
    assert not (tmp_path / "elsewhere").exists()


# Limits.


def test_somebody_who_asks_too_often_waits_and_others_do_not(lab: Lab) -> None:
    app = lab.app(users=Limiter(3))
    alice = lab.client(app=app)
    assert [alice.get("/runs").status_code for _ in range(4)] == [200, 200, 200, 429]
    answer = alice.get("/runs")
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert lab.client(lab.issuer.token(email=BOB), app=app).get("/runs").status_code == 200


def test_an_address_that_tries_tokens_waits_too(lab: Lab) -> None:
    client = lab.client("forged", per_minute=3)
    assert [client.get("/runs").status_code for _ in range(5)] == [401, 401, 401, 429, 429]


def test_tokens_come_back_with_time() -> None:
    now = [0.0]
    limiter = Limiter(60, clock=lambda: now[0])
    assert [limiter.wait("a") for _ in range(60)] == [0.0] * 60
    assert limiter.wait("a") == pytest.approx(1)
    now[0] += 2
    assert [limiter.wait("a") > 0 for _ in range(3)] == [False, False, True]


# Finding and showing.


def test_one_sees_the_runs_of_ones_datasets_newest_first(lab: Lab) -> None:
    older = lab.record(done=3)
    newer = lab.record("fusions-main")
    lab.record("methylation-test")
    found = lab.client().get("/runs").json()
    assert [run["run_id"] for run in found["runs"]] == sorted([older, newer], reverse=True)
    assert {run["status"] for run in found["runs"]} == {"live", "done"}
    assert found["unread"] == []


def test_who_is_taken_out_of_the_policy_sees_nothing_from_then_on(lab: Lab) -> None:
    run_id = lab.record()
    lab.result("a.txt", b"a")
    client = lab.client()
    assert client.get(f"/runs/{run_id}").status_code == 200
    lab.write_policy("fusions", [BOB])
    assert client.get("/runs").json()["runs"] == []
    assert client.get(f"/runs/{run_id}").status_code == 404
    assert client.get("/fusions/test/a.txt").status_code == 403


def test_anothers_run_is_told_like_one_that_there_is_not(lab: Lab) -> None:
    theirs = lab.client().get(f"/runs/{lab.record('methylation-test')}")
    none = lab.client().get("/runs/01KAJPZ8T2B6V5Q0X3M9C7N4RD")
    assert theirs.status_code == none.status_code == 404
    assert theirs.json()["error"] == none.json()["error"]


def test_a_record_that_claims_another_dataset_is_not_shown(lab: Lab) -> None:
    run_id = lab.record("methylation-test", dataset="fusions")
    assert lab.client().get(f"/runs/{run_id}").status_code == 404
    planted = lab.record(dataset="methylation")
    assert lab.client().get(f"/runs/{planted}").status_code == 404


FILTERS = {
    "dataset=fusions": 3,
    "dataset=methylation": 0,
    "level=standard": 1,
    "status=failed": 1,
    "status=live": 1,
    "user=alice@example.org": 2,
    "repository=lab/fusions": 3,
    "commit=3fa9": 3,
    "commit=aaaa": 0,
    "pipeline=main.sh": 3,
    "since=2000-01-01": 3,
    "since=9999-12-31": 0,
    "until=2000-01-01": 0,
    "until=9999-12-31": 3,
    "dataset=&level=&status=&user=&since=&until=": 3,
}


@pytest.mark.parametrize("filters", FILTERS)
def test_runs_are_filtered(filters: str, lab: Lab) -> None:
    lab.record(run_id="01KAJPZ8T2B6V5Q0X3M9C7N4RD", done=3)
    lab.record("fusions-main", done=2, failed=1)
    lab.record(user="carol@example.org", identity="carol@example.org")
    answer = lab.client().get(f"/runs?{filters}")
    assert answer.status_code == 200
    assert len(answer.json()["runs"]) == FILTERS[filters]


@pytest.mark.parametrize(
    "filters", ["most=0", "most=1000", "level=root", "since=yesterday", "since=0", "commit=xyz", "nothing=1"]
)
def test_a_filter_that_is_none_is_told(filters: str, lab: Lab) -> None:
    assert lab.client().get(f"/runs?{filters}").status_code == 422


def test_the_runs_come_in_pages_without_a_gap_or_a_repetition(lab: Lab) -> None:
    made = {lab.record(place) for place in ("fusions-test", "fusions-main") for _ in range(7)}
    client, seen, before = lab.client(), [], ""
    for _ in range(10):
        told = client.get(f"/runs?most=4&before={before}").json()
        seen += [run["run_id"] for run in told["runs"]]
        before = told["next"]
        if not before:
            break
    assert seen == sorted(made, reverse=True)


def test_a_run_is_shown_with_what_happened_to_it(lab: Lab) -> None:
    run_id = lab.record()
    lab.fail_submission(run_id, "the queue is disabled")
    told = lab.client().get(f"/runs/{run_id}").json()
    assert told["run"]["status"] == "failed"
    assert "the queue is disabled" in told["run"]["problem"]
    assert told["record"]["commit"] == "3fa9" * 10
    assert "submission failed" in [event["event"] for event in told["events"]]


def test_one_store_that_is_away_hides_no_other(lab: Lab) -> None:
    def opened(url: str) -> Store:
        if url.startswith("s3://"):
            raise StoreFailed(f"{url} cannot be reached.")
        return open_store(url)

    run_id = lab.record()
    policies = lab.root / "policies"
    text = (policies / "fusions.toml").read_text().replace('"fusions"', '"away"')
    (policies / "away.toml").write_text(text.replace(f"{lab.root}/fusions", "s3://away"))
    (policies / "broken.toml").write_text("dataset = ")
    told = lab.client(catalogue=Catalogue(str(policies), opened)).get("/runs").json()
    assert [run["run_id"] for run in told["runs"]] == [run_id]
    assert told["unread"] == ["away"]


# Pages.


def test_the_page_of_the_runs_escapes_what_runs_say(lab: Lab) -> None:
    lab.record(description="<script>alert(1)</script>", user='"><img src=x>')
    page = lab.client().page("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "<script" not in page.text
    assert "<img" not in page.text
    assert "&lt;script&gt;alert(1)" in page.text


def test_the_page_of_a_run_escapes_what_it_says(lab: Lab) -> None:
    run_id = lab.record(description="<b>", argv=("main.sh", "<script>alert(1)</script>"), repository="javascript:x")
    page = lab.client().page(f"/runs/{run_id}")
    assert page.status_code == 200
    assert "<script" not in page.text
    assert 'href="javascript' not in page.text
    assert f'href="/{"fusions/test/cohort-7"}/"' in page.text


def test_a_filter_is_kept_on_the_page_and_escaped(lab: Lab) -> None:
    page = lab.client().page("/?user=%22%3E%3Cscript%3E")
    assert 'value="&#34;&gt;&lt;script&gt;"' in page.text


def test_a_browser_is_told_of_an_error_by_a_page(lab: Lab) -> None:
    page = lab.client(None).page("/")
    assert page.status_code == 401
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["www-authenticate"].startswith("Bearer")
    assert page.headers["x-request-id"] in page.text


@pytest.mark.parametrize("url", ["/", "/runs", "/health", "/nothing", "/openapi.json", "/_/style.css"])
def test_every_answer_has_the_headers_that_bind_browsers(url: str, lab: Lab) -> None:
    answer = lab.client().page(url)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "script-src" not in answer.headers["content-security-policy"]
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE"])
def test_nothing_can_be_changed(method: str, lab: Lab) -> None:
    run_id = lab.record()
    assert lab.client().request(method, f"/runs/{run_id}").status_code == 405


def test_health_asks_nobody(lab: Lab) -> None:
    lab.issuer.documents.clear()
    assert lab.client(None).get("/health").json()["status"] == "ok"


def test_a_developers_service_answers_under_its_own_names_alone(lab: Lab) -> None:
    client = lab.client(None, verifier=None, insecure_user=ALICE, hosts=frozenset({"127.0.0.1"}))
    assert client.get("/runs").status_code == 200
    assert client.get("/runs", headers={"Host": "127.0.0.1:8765"}).status_code == 200
    assert client.get("/runs", headers={"Host": "127.0.0.1:80@evil.example.org"}).status_code == 400
    assert client.get("/runs", headers={"Host": ""}).status_code == 400
    assert client.get("/runs", headers={"Host": "evil.example.org"}).status_code == 400
    assert client.get("/runs", headers={"Host": "127.0.0.1.evil.example.org:8765"}).status_code == 400
