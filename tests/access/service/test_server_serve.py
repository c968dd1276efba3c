"""Starting the service: what it checks before it listens, and the whole of it as processes on a real backend."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.access.service.serve import listening_of, make_guarded, serve
from batch_pipeline.backends.base import JobRequest
from batch_pipeline.backends.memory import MemoryBackend
from batch_pipeline.cli import run_command_line
from batch_pipeline.config import load_settings
from batch_pipeline.localbatch.client import stop
from batch_pipeline.records.record import read_record
from batch_pipeline.wire.errors import InvalidConfig, InvalidUse, SubmissionRefused
from batch_pipeline.wire.loopback import is_loopback
from batch_pipeline.wire.store import open_store
from tests.access.conftest import begin
from tests.access.service.lab import ALICE, Lab
from tests.access.service.oidc import AUDIENCE, Issuer
from tests.access.service.serving import served
from tests.access.site import Site, until


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "runs.example.org", "127.0.0.1.example.org", ""])
def test_who_asks_nobody_for_a_token_listens_on_this_machine_alone(host: str, lab: Lab) -> None:
    told = {"access.policies": str(lab.root / "policies"), "server.host": host}
    with pytest.raises(InvalidUse, match="on this machine"):
        serve(load_settings(told, environ={}, folder=lab.root), insecure_user=ALICE)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8"])
def test_addresses_of_this_machine_are_known(host: str) -> None:
    assert is_loopback(host)


def test_the_option_that_asks_nobody_is_refused_elsewhere_by_the_command_too(
    lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_PIPELINE__ACCESS__POLICIES", str(lab.root / "policies"))
    assert run_command_line(None, ["serve", "--host", "0.0.0.0", "--insecure-user", ALICE]) == 2
    assert "listens on this machine" in capsys.readouterr().err


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "no policies": ({"access.policies": ""}, "access.policies is not set"),
    "no issuer": ({"server.issuer": ""}, "server.issuer is not set"),
    "no audience": ({"server.audience": ""}, "No audience"),
    "an issuer over plain http": ({"server.issuer": "http://issuer.example.org"}, "https"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_service_that_could_not_tell_anybody_apart_does_not_start(case: str, lab: Lab) -> None:
    changes, word = WRONG[case]
    good = {"access.policies": str(lab.root / "policies"), "server.issuer": lab.issuer.url, "server.audience": AUDIENCE}
    settings = load_settings({**good, **changes}, environ={}, folder=lab.root)
    with pytest.raises(InvalidConfig, match=word):
        make_guarded(settings, MemoryBackend())


@pytest.mark.parametrize("algorithms", ["HS256", "none", "RS256,none", "RS256,HS256", ""])
def test_settings_take_asymmetric_algorithms_alone(algorithms: str) -> None:
    with pytest.raises(InvalidConfig, match="asymmetric"):
        load_settings({"server.algorithms": algorithms}, environ={})


@pytest.mark.parametrize("name", ["runs", "health"])
def test_a_dataset_whose_results_would_hide_a_page_is_told(name: str, lab: Lab) -> None:
    lab.write_policy(name, [ALICE])
    with pytest.raises(InvalidConfig, match="hide a page"):
        make_guarded(lab.settings, MemoryBackend(), insecure_user=ALICE)


def test_a_policy_that_is_wrong_is_told_before_it_listens(lab: Lab) -> None:
    (lab.root / "policies" / "broken.toml").write_text("dataset = ")
    with pytest.raises(InvalidConfig, match=r"broken\.toml"):
        make_guarded(lab.settings, MemoryBackend(), insecure_user=ALICE)


@pytest.mark.parametrize("name", ["*", "alice\n"])
def test_nobody_is_called_so(name: str, lab: Lab) -> None:
    with pytest.raises(InvalidUse, match="not a name of a user"):
        make_guarded(lab.settings, MemoryBackend(), insecure_user=name)


@pytest.mark.parametrize(("proxy", "others"), [("", 429), ("127.0.0.1", 200), ("192.0.2.7", 429)])
def test_an_address_is_believed_of_a_proxy_that_is_named(proxy: str, others: int, lab: Lab) -> None:
    settings = load_settings({"server.trusted_proxy": proxy}, environ={}, folder=lab.root)
    with served(lab.app(per_minute=1), **listening_of(settings)) as url:
        first, second, third = ({"X-Forwarded-For": f"192.0.2.{number}"} for number in (1, 2, 1))
        assert _get(f"{url}/health", **first)[0] == 200
        assert _get(f"{url}/health", **second)[0] == others
        assert _get(f"{url}/health", **third)[0] == 429


class Refusing(MemoryBackend):
    """A backend that takes nothing."""

    def submit(self, request: JobRequest) -> str:
        raise SubmissionRefused("The job queue test is disabled.")


def test_a_run_that_could_not_be_submitted_is_told_and_shown(lab: Lab) -> None:
    client = lab.client(None, app=make_guarded(lab.settings, Refusing(), insecure_user=ALICE))
    answer = client.post("/runs", json=lab.ask())
    assert answer.status_code == 502
    assert "is disabled" in answer.json()["error"]
    (run,) = client.get("/runs").json()["runs"]
    assert (run["user"], run["status"]) == (ALICE, "failed")
    assert "submission failed: The job queue test is disabled." in run["problem"]


def test_a_run_is_submitted_once_and_by_the_levels_queue(lab: Lab) -> None:
    backend = MemoryBackend()
    client = lab.client(None, app=make_guarded(lab.settings, backend, insecure_user=ALICE))
    answer = client.post("/runs", json=lab.ask())
    assert answer.status_code == 201
    (job,) = client.get(answer.json()["url"]).json()["jobs"]
    assert (job["native_id"], job["queue"]) == (answer.json()["native_id"], "test")


# As processes.


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    state = tmp_path / "state"
    begin(state)
    made = Site(tmp_path, state)
    path = tmp_path / "policies" / "texts.toml"
    path.write_text(path.read_text().replace('members = ["', f'members = ["{ALICE}", "'))
    made.examples()
    yield made
    stop(state)


@contextmanager
def service(site: Site, issuer: Issuer) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"ISSUER": issuer.url, "AUDIENCE": AUDIENCE, "AUDIT": site.root / "audit.jsonl", "PORT": port}
    variables = {f"BATCH_PIPELINE__SERVER__{name}": str(value) for name, value in told.items()}
    with (site.root / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "batch_pipeline", "serve"],
            cwd=site.root,
            env={**site.environment, **variables},
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _up(url) or process.poll() is not None, "the service answers")
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _up(url: str) -> bool:
    try:
        return _get(f"{url}/health")[0] == 200
    except OSError:
        return False


def _get(url: str, token: str = "", **headers: str) -> tuple[int, bytes]:
    told = {**headers, **({"Authorization": f"Bearer {token}"} if token else {})}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=told), timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.engine
def test_reviewed_code_runs_by_the_service_and_its_results_are_viewed(site: Site, issuer: Issuer) -> None:
    token = issuer.token()
    with service(site, issuer) as url:
        asked = ("--server-url", url, "--json")
        ended = site.submit(
            *asked, "--wait", "examples/drivers/lines.sh", output="lines", env={"BATCH_PIPELINE_ID_TOKEN": token}
        )
        assert ended.returncode == 0, ended.stderr
        run_id = json.loads(ended.stdout)["run_id"]
        record = read_record(open_store(str(site.main)), run_id)
        assert (record.user, record.status) == (ALICE, "done")
        assert record.commit == site.code.git("rev-parse", "HEAD")

        told: Any = json.loads(_get(f"{url}/runs/{run_id}", token)[1])
        assert told["run"]["results"] == "/texts/standard/lines/"
        assert [job["step"] for job in told["jobs"]] == ["driver"]
        table = (site.main / "lines" / "lines.tsv").read_bytes()
        assert _get(f"{url}/texts/standard/lines/lines.tsv", token) == (200, table)
        assert _get(f"{url}/texts/standard/lines/lines.tsv", token, Range="bytes=2-5") == (206, table[2:6])
        assert _get(f"{url}/texts/standard/lines/lines.tsv")[0] == 401
        assert _get(f"{url}/texts/standard/../../policies/texts.toml", token)[0] == 400

        evil = site.code.commit({"evil.sh": "#!/bin/sh\n"})
        site.code.push(f"{evil}:refs/heads/feature")
        refused = site.submit(*asked, "evil.sh", env={"BATCH_PIPELINE_ID_TOKEN": token})
        assert refused.returncode == 2
        assert "not on the branch main" in refused.stdout
    lines = [json.loads(line) for line in (site.root / "audit.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines if line.get("method") == "POST"] == [201, 403]
    everything = "".join(
        path.read_text(errors="replace")
        for folder in (site.main, site.state)
        for path in folder.rglob("*")
        if path.is_file()
    )
    assert token.split(".")[2] not in everything + (site.root / "serve.log").read_text()
