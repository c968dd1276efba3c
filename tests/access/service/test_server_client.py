"""`submit` and `runs` by a service, and how their client guards the token."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from batch_pipeline.access.request import SubmitRequest
from batch_pipeline.access.service.client import ServiceClient, ServiceUnreachable, token_of
from batch_pipeline.access.service.limits import Limiter
from batch_pipeline.cli import run_command_line
from batch_pipeline.wire.errors import InvalidUse, Refused
from tests.access.service.lab import BOB, Lab
from tests.access.service.oidc import Issuer
from tests.access.service.serving import served

VARIABLE = "BATCH_PIPELINE_ID_TOKEN"


@pytest.fixture
def url(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setenv(VARIABLE, lab.issuer.token())
    monkeypatch.chdir(tmp_path)
    with served(lab.app()) as found:
        yield found


def submit(url: str, *words: str, dataset: str = "fusions") -> int:
    shared = ["--dataset", dataset, "--description", "A test", "--output-dir", "cohort-7", "--skip-repo-checkout"]
    return run_command_line(None, ["submit", "--server-url", url, *shared, *words])


def test_a_run_is_started_in_ones_own_name(url: str, lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(url, "--env", "DEPTH=7", "--json", "echo", "--all") == 0
    told = json.loads(capsys.readouterr().out)
    record = lab.store().get_json(f"runs/{told['run_id']}/run.json")
    assert (record["user"], record["argv"]) == ("alice@example.org", ["echo", "--all"])
    assert record["environment"] == {"DEPTH": "7"}


def test_the_service_in_a_settings_file_is_asked_without_an_option(
    url: str, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("batch_pipeline.toml").write_text(f'[server]\nurl = "{url}"\n')
    words = ["--dataset", "fusions", "--description", "A test", "--output-dir", "x", "--skip-repo-checkout", "echo"]
    assert run_command_line(None, ["submit", *words]) == 0
    (run_id,) = lab.store().folders("runs/")
    told = capsys.readouterr()
    assert f"Run {run_id} was started" in told.out
    assert f"{url}/runs/{run_id}" in told.err


def test_a_refusal_is_told_problem_by_problem(url: str, lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(url, "--env", "PATH=x", "--config", _config("[workflow]\na = 1\n"), "echo") == 2
    told = capsys.readouterr().err
    assert "--env PATH" in told
    assert "--config [workflow]" in told
    assert submit(url, "--json", "echo", dataset="methylation") == 2
    assert json.loads(capsys.readouterr().out)["status"] == 403
    assert list(lab.store().folders("runs/")) == []


def _config(text: str) -> str:
    Path("config.toml").write_text(text)
    return "config.toml"


def test_a_service_does_not_do_as_if(url: str, lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(url, "--dry-run", "echo") == 2
    assert "--dry-run" in capsys.readouterr().err
    assert list(lab.store().folders("runs/")) == []


def test_runs_are_listed_as_the_service_knows_them(url: str, lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    mine = lab.record(done=3)
    lab.record("methylation-test")
    lab.record("fusions-main", user="carol@example.org", identity="carol@example.org")
    words = ["runs", "--server-url", url, "--user", "alice@example.org", "--since", "2000-01-01"]
    assert run_command_line(None, [*words, "--json"]) == 0
    assert [run["run_id"] for run in json.loads(capsys.readouterr().out)] == [mine]
    assert run_command_line(None, words) == 0
    assert mine in capsys.readouterr().out


def test_without_a_token_nothing_is_asked(url: str, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    assert run_command_line(None, ["runs", "--server-url", url]) == 2
    assert lab.audit() == []


def test_a_token_that_is_not_believed_is_told(url: str, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    token = lab.issuer.token(email=BOB, exp=1)
    with pytest.raises(InvalidUse, match="expired") as caught:
        ServiceClient(url, token).runs({})
    assert all(part not in caught.value.message for part in token.split("."))


def test_a_service_that_has_enough_is_to_be_asked_later(lab: Lab) -> None:
    with served(lab.app(users=Limiter(1))) as url:
        client = ServiceClient(url, lab.issuer.token())
        client.runs({})
        with pytest.raises(ServiceUnreachable, match="Too many requests"):
            client.runs({})


def test_a_service_that_is_not_there_is_told(url: str) -> None:
    with pytest.raises(ServiceUnreachable, match="cannot be asked"):
        ServiceClient("http://127.0.0.1:1", "a.b.c").runs({})


def test_an_answer_that_was_lost_is_told_as_a_doubt(lab: Lab) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def hang_up() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)

        thread = Thread(target=hang_up)
        thread.start()
        client = ServiceClient(f"http://127.0.0.1:{listener.getsockname()[1]}", "a.b.c")
        with pytest.raises(ServiceUnreachable, match="may have started the run"):
            client.start(SubmitRequest(**lab.ask()))
        thread.join()


@pytest.mark.parametrize("words", [("show", "last"), ("diff", "last", "last"), ("export", "last", "--to", "x")])
def test_a_service_is_asked_for_the_list_alone(
    words: tuple[str, ...], url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(None, ["runs", "--server-url", url, *words]) == 2
    assert "/runs/RUN" in capsys.readouterr().err


def test_something_else_that_answers_is_told(issuer: Issuer) -> None:
    with pytest.raises(InvalidUse, match="not as such a service does"):
        ServiceClient(issuer.url, "a.b.c").runs({})


@pytest.mark.parametrize("url", ["http://runs.example.org", "ftp://runs.example.org", "https://user@runs.example.org"])
def test_a_token_goes_out_by_https_alone(url: str) -> None:
    with pytest.raises(InvalidUse, match="https"):
        ServiceClient(url, "a.b.c")


def test_a_redirect_does_not_take_the_token_along(issuer: Issuer) -> None:
    issuer.documents["/runs?"] = f"{issuer.url}/stolen"
    issuer.documents["/stolen"] = {"runs": []}
    with pytest.raises(InvalidUse):
        ServiceClient(issuer.url, "a.b.c").runs({})
    assert issuer.asked == ["/runs?"]


def test_a_token_is_read_where_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("a.b.c\n")
    assert token_of(f"file:{tmp_path}/token") == "a.b.c"
    monkeypatch.setenv("MINE", "d.e.f")
    assert token_of("env:MINE") == "d.e.f"


@pytest.mark.parametrize("text", ["", "a.b.c\nX-Evil: 1", "ä.b.c", "two words"])
def test_what_is_no_token_is_not_sent(text: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(InvalidUse, match="no identity token"):
        token_of(f"file:{tmp_path}/token")


def test_a_refusal_keeps_its_status(url: str, lab: Lab) -> None:
    with pytest.raises(Refused) as caught:
        ServiceClient(url, lab.issuer.token()).start(SubmitRequest(**lab.ask(output_dir="..")))
    assert caught.value.status == 400
