"""What a record tells of code, identity, settings and the environment; and that no secret comes with it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.backends.account import NotVisible
from batch_pipeline.config import load_settings
from batch_pipeline.records import code_state
from batch_pipeline.records.code_state import CodeState, read_code_state
from batch_pipeline.records.origin import config_json, identity_of, on_behalf_of, package_versions
from batch_pipeline.records.record import RunRecord, read_record
from batch_pipeline.records.record_writing import BegunRun, write_record
from batch_pipeline.run import submit
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.digest import canonical_json, sha256_of_bytes
from batch_pipeline.wire.errors import BackendFailed, RunConflict
from batch_pipeline.wire.scrub import (
    HIDDEN,
    scrubbed,
    scrubbed_code,
    scrubbed_value,
    scrubbed_words,
    without_credentials,
)
from batch_pipeline.wire.store import Store
from tests.run.small import Ear, Stage, drive, look, request_of

pytestmark = pytest.mark.git

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """Runs git in a new repository with one commit."""
    folder = tmp_path / "code"
    folder.mkdir()
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "ada@example.org")

    def call(*words: str) -> str:
        ran = subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, text=True)
        return ran.stdout.strip()

    call("init", "-q", "-b", "main")
    (folder / "main.py").write_text("print(1)\n")
    call("add", ".")
    call("commit", "-q", "-m", "Begin")
    return call


@pytest.fixture
def folder(git: Git, tmp_path: Path) -> Path:
    return tmp_path / "code"


# The repository.


def test_a_clean_tree_is_told_with_commit_branch_tags_and_remote(git: Git, folder: Path) -> None:
    git("tag", "v1")
    git("tag", "-a", "v2", "-m", "two")
    git("remote", "add", "backup", "https://example.org/backup.git")
    git("remote", "add", "origin", "https://ada:hunter2@example.org/lab/code.git?token=abc")

    state = read_code_state(folder)

    assert state.commit == git("rev-parse", "HEAD")
    assert (state.branch, sorted(state.tags)) == ("main", ["v1", "v2"])
    assert state.repository == "https://example.org/lab/code.git"
    assert (state.changed, state.untracked, state.diff_sha256, state.diff) == (False, (), "", b"")
    assert not state.is_dirty([folder / "main.py"])


def test_a_changed_tree_is_told_with_its_difference_and_is_no_tagged_version(git: Git, folder: Path) -> None:
    git("tag", "v1")
    (folder / "main.py").write_text("print(2)\n")
    expected = subprocess.run(
        ["git", "-C", str(folder), "diff", "--full-index", "--binary", "HEAD"], check=True, capture_output=True
    ).stdout

    state = read_code_state(folder)

    assert state.changed
    assert state.is_dirty()
    assert state.tags == ()
    assert (state.diff, state.diff_bytes) == (expected, len(expected))
    assert state.diff_sha256 == hashlib.sha256(expected).hexdigest()


def test_what_is_only_staged_counts_as_changed(git: Git, folder: Path) -> None:
    (folder / "main.py").write_text("print(2)\n")
    git("add", ".")
    assert read_code_state(folder).diff_bytes > 0


def test_a_file_that_runs_and_is_in_no_commit_makes_the_tree_dirty_and_another_does_not(git: Git, folder: Path) -> None:
    (folder / "steps").mkdir()
    (folder / "steps" / "new.py").write_text("")
    (folder / "notes.txt").write_text("")

    state = read_code_state(folder)

    assert sorted(state.untracked) == ["notes.txt", "steps/"]
    assert not state.changed
    assert not state.is_dirty([folder / "main.py"])
    assert state.is_dirty([folder / "main.py", folder / "steps" / "new.py"])
    assert state.is_dirty([folder / "notes.txt"])


def test_a_long_difference_is_told_by_digest_and_size(git: Git, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_state, "MOST_DIFF", 100)
    (folder / "main.py").write_text("print(2)\n" * 50)

    state = read_code_state(folder)

    assert state.diff == b""
    assert state.diff_bytes > 100
    assert len(state.diff_sha256) == 64


def test_a_detached_head_is_on_no_branch(git: Git, folder: Path) -> None:
    git("checkout", "-q", "--detach")
    state = read_code_state(folder)
    assert (state.branch, state.commit) == ("", git("rev-parse", "HEAD"))


def test_no_repository_no_commit_and_no_git_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_code_state(tmp_path) == CodeState()
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True)
    assert read_code_state(tmp_path).commit == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_code_state(tmp_path) == CodeState()


def test_three_calls_of_git_are_the_most(git: Git, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    real = subprocess.Popen

    class Counted(real):  # type: ignore[valid-type,misc]
        def __init__(self, words: Any, **more: Any) -> None:
            started.append(words)
            super().__init__(words, **more)

    monkeypatch.setattr(subprocess, "Popen", Counted)
    read_code_state(folder)
    clean = len(started)
    (folder / "main.py").write_text("print(2)\n")
    read_code_state(folder)
    assert (clean, len(started) - clean) == (3, 3)


def test_nothing_that_the_repository_names_is_run(git: Git, folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\ncat\n")
    trap.chmod(0o755)
    git("config", "core.fsmonitor", str(trap))
    git("config", "diff.external", str(trap))
    git("config", "diff.odd.textconv", str(trap))
    (folder / ".gitattributes").write_text("*.py diff=odd\n")
    (folder / "main.py").write_text("print(2)\n")

    assert b"print(2)" in read_code_state(folder).diff
    assert not (tmp_path / "sprung").exists()


def test_a_hooks_variables_do_not_lead_to_another_repository(
    git: Git, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert read_code_state(folder).branch == "main"


# Secrets.


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://github.com/lab/code.git", "https://github.com/lab/code.git"),
        ("https://ada:pw@github.com/lab/code.git", "https://github.com/lab/code.git"),
        ("https://ghp_abcdefghijklmnopqrstuvwx@github.com/lab/code", "https://github.com/lab/code"),
        ("https://github.com/lab/code?access_token=x#y", "https://github.com/lab/code"),
        ("ssh://git@example.org:22/code", "ssh://git@example.org:22/code"),
        ("ssh://ada:pw@example.org/code", "ssh://example.org/code"),
        ("git@github.com:lab/code.git", "git@github.com:lab/code.git"),
        ("/srv/code.git", "/srv/code.git"),
        ("file:///srv/code.git", "file:///srv/code.git"),
    ],
)
def test_a_repository_is_told_without_credentials(url: str, told: str) -> None:
    assert without_credentials(url) == told


@pytest.mark.parametrize(
    "text",
    [
        "couchdb+http://admin:hunter2@db:5984/pool",
        "https://hunter2@example.org/x",
        "https://example.org/x?X-Amz-Signature=hunter2&y=1",
        "DB_PASSWORD=hunter2",
        '{"api_key": "hunter2"}',
        "AWS_SECRET_ACCESS_KEY = hunter2",
        "dbpassword: hunter2",
        "githubToken=hunter2",
        "secretkey=hunter2",
        "token_secretory=1 tokens=hunter2",
        "client_secret_file=hunter2",
        "https://example.org/x?tokenizer=bert&token=hunter2",
        "session-token='hunter2'",
        "tokenizer_password=hunter2",
    ],
)
def test_a_text_is_kept_without_its_secret(text: str) -> None:
    assert "hunter2" not in scrubbed(text)
    assert HIDDEN in scrubbed(text)


def test_tokens_are_known_by_their_looks() -> None:
    for token in ("AKIAIOSFODNN7EXAMPLE", "ghp_" + "a1" * 18, "glpat-" + "x" * 20):
        assert scrubbed(f"see {token} here") == f"see {HIDDEN} here"


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/prefix",
        "file:///a/b@c",
        "registry/x@sha256:abc",
        "ssh://git@host/x",
        "--tag owner=ada",
        "12:30:00Z",
        "tokenizer=bert tokenized: true",
        "max_tokens=100 token_count: 5 --tokens-per-read=30",
        "secretory_cells=12",
        "secretome.tsv: written",
        "mutational_signature: SBS1",
        "gene-signature=IFN signature_genes=TP53",
        "token_file=/run/secrets/t",
        "secret_arn=arn:aws:secretsmanager:eu-west-1:1:secret:x",
        "/data/token/secret.bam",
        "s3://bucket/tokens/keys?prefix=tokens",
        "monkey=banana keyboard: qwerty",
        "sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert scrubbed(text) == text


def test_words_that_hold_a_secrets_by_chance_stay_in_values_commands_and_code() -> None:
    value = {"tokenizer": "bert", "secretory_cells": "12", "token_file": "/run/t", "gene_signature": ["IFN"]}
    assert scrubbed_value(value) == value
    words = ["--tokenizer", "bert", "--max-tokens", "30", "--secret-file", "/run/s"]
    assert scrubbed_words(words) == words
    assert scrubbed_code('+TOKENIZER = "bert"\n') == '+TOKENIZER = "bert"\n'


def test_words_behind_a_secrets_option_are_hidden() -> None:
    words = ["run", "--auth-token", "hunter2", "--password=hunter2", "--samples", "a,b", "--token", "--yes"]
    told = scrubbed_words(words)
    assert told == ["run", "--auth-token", HIDDEN, f"--password={HIDDEN}", "--samples", "a,b", "--token", "--yes"]


def test_a_long_line_is_no_trap() -> None:
    """A pattern that tries every beginning with every end would take hours for these."""
    for piece in ("a.", "token", "a+", "x", "=", "http://", "?token"):
        line = piece * ((1 << 20) // len(piece))
        assert len(scrubbed_code(line)) > 0


def test_code_keeps_its_names_and_loses_its_literals() -> None:
    assert scrubbed_code("+token = self.token\n") == "+token = self.token\n"
    assert scrubbed_code('+PASSWORD = "hunter2"\n') == f'+PASSWORD = "{HIDDEN}"\n'


@given(
    st.recursive(
        st.text() | st.integers() | st.booleans() | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_scrubbing_keeps_the_shape_and_is_done_once(value: Any) -> None:
    once = scrubbed_value(value)
    assert type(once) is type(value)
    assert scrubbed_value(once) == once


# Settings, identity, environment.


def test_settings_are_kept_as_merged_with_their_digest_and_without_secrets() -> None:
    settings = load_settings(
        {"pool.url": "couchdb+http://admin:hunter2@db:5984/pool", "tags.owner": "ada", "params.api_token": "hunter2"},
        environ={"BATCH_PIPELINE__BACKEND__QUEUE": "mixed"},
        folder=Path("/nowhere"),
    )

    told = config_json(settings)

    assert "hunter2" not in json.dumps(told)
    assert told["settings"]["backend"]["queue"] == "mixed"
    assert told["settings"]["tags"] == {"owner": "ada"}
    assert told["origins"]["backend.queue"] == "$BATCH_PIPELINE__BACKEND__QUEUE"
    assert told["sha256"] == sha256_of_bytes(canonical_json(told["settings"]))


def test_the_identity_is_the_arn_where_aws_tells_it() -> None:
    class Account:
        complete = True

        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def identity(self) -> tuple[str, str]:
            if isinstance(self.answer, Exception):
                raise self.answer
            return "123456789012", str(self.answer)

    class Backend:
        def __init__(self, answer: Any, *, complete: bool = True) -> None:
            self.account = Account(answer)
            self.account.complete = complete

    arn = "arn:aws:sts::123456789012:assumed-role/x/ada"
    assert identity_of(Backend(arn)) == arn
    assert identity_of(Backend(arn, complete=False)) == ""
    assert identity_of(Backend(NotVisible("no"))) == ""
    assert identity_of(Backend(BackendFailed("away"))) == ""


def test_a_driver_says_on_whose_behalf_it_runs() -> None:
    assert on_behalf_of({}) == {}
    told = {
        Variable.PARENT_RUN: "R0",
        Variable.DATASET: "d",
        Variable.ACCESS_LEVEL: "test",
        Variable.OUTPUT_PREFIX: "x",
    }
    assert on_behalf_of(told) == {
        "parent_run": "R0",
        "dataset": "d",
        "access_level": "test",
        "output_prefix": "x",
    }


def test_versions_are_those_of_the_packages() -> None:
    import boto3
    import luigi

    found = package_versions()
    assert (found["boto3"], found["luigi"]) == (boto3.__version__, luigi.__version__)
    assert {"batch_pipeline", "python", "sciluigi", "obstore"} <= set(found)


# The record.


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> CodeState:
    """What git tells of the pipeline's folder."""
    told = CodeState(
        repository="https://example.org/code",
        commit="c" * 40,
        branch="main",
        changed=True,
        diff_sha256="d" * 64,
        diff_bytes=4,
        diff=b"diff",
    )
    monkeypatch.setattr(code_state, "read_code_state", lambda folder: told)
    return told


def test_a_run_keeps_all_of_it(store: Store, stage: Stage, state: CodeState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(Variable.PARENT_RUN, "R0")
    monkeypatch.setenv(Variable.DATASET, "fusions")
    argv = ("run", "--token", "hunter2")
    ear = Ear()
    (run_id,) = drive(request_of(store, argv=argv, description="for the paper"), stage, ear).run_ids

    record = read_record(store, run_id)

    assert (record.repository, record.commit, record.branch) == (state.repository, state.commit, "main")
    assert (record.dirty, record.diff_sha256, record.diff_bytes) == (True, "d" * 64, 4)
    assert store.get(layout.run_diff(run_id)) == b"diff"
    assert (record.parent_run, record.dataset, record.access_level) == ("R0", "fusions", "")
    assert record.argv == ["run", "--token", HIDDEN]
    assert (record.kind, record.description, record.identity) == ("pipeline", "for the paper", record.user)
    assert set(record.step_digests) == set(record.images) == {"upper", "count", "total"}
    parts = ear.plans[0].parts
    assert record.step_digests == {step: part.digest() for step, part in parts.items()}
    assert store.get_json(layout.run_config(run_id))["sha256"] == record.config_sha256
    assert record.versions["batch_pipeline"]
    assert (record.status, record.ok, record.done) == ("done", True, 7)


def test_nothing_of_it_is_asked_when_nothing_is_to_do(
    store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive(request_of(store), stage)

    def asked(folder: Path) -> CodeState:
        raise AssertionError(folder)

    monkeypatch.setattr(submit, "ProvenanceReader", asked)

    assert drive(request_of(store), stage).run_ids == ()


def test_what_starts_processes_is_not_imported_by_a_driver_with_nothing_to_do() -> None:
    """Imports are most of what such a command takes."""
    code = "import sys, batch_pipeline.run.driver as d; print([m for m in ('subprocess', 'ulid') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout == "[]\n"


def test_a_record_is_never_changed(store: Store, stage: Stage) -> None:
    request = request_of(store)
    (run_id,) = drive(request, stage).run_ids
    before = store.get(layout.run_record(run_id))
    plan = look(request, stage).plan
    begun = BegunRun(record=replace(read_record(store, run_id), user="eve"), workflow=None, diff=b"")

    with pytest.raises(RunConflict, match="already"):
        write_record(store, begun, request, plan)

    assert store.get(layout.run_record(run_id)) == before


def test_a_record_of_an_earlier_version_is_read(store: Store, stage: Stage) -> None:
    (run_id,) = drive(request_of(store), stage).run_ids
    value = store.get_json(layout.run_record(run_id))
    fresh = {"commit", "identity", "step_digests", "images", "config_sha256", "kind", "dirty", "tags"}
    old = {key: item for key, item in value.items() if key not in fresh}

    record = RunRecord.from_json({**old, "of a later version": 1})

    assert (record.run_id, record.commit, record.kind, record.dirty) == (run_id, "", "pipeline", False)


def test_the_run_is_named_everywhere(store: Store, stage: Stage) -> None:
    """In tags, environment and names of jobs, in receipts' and manifests' content, in the keys of logs."""
    (run_id,) = drive(request_of(store), stage).run_ids

    for job in stage.jobs.values():
        assert run_id in job.request.name
        assert job.request.tags["batch-pipeline-run"] == run_id
        assert job.request.environment[Variable.RUN_ID] == run_id
        assert store.get_json(job.request.environment[Variable.MANIFEST])["run_id"] == run_id
    receipts = [store.get_json(key) for key in store.keys(layout.RECEIPTS)]
    assert len(receipts) == 7
    assert {receipt["run_id"] for receipt in receipts} == {run_id}
    assert len(list(store.keys(layout.logs(run_id)))) == 7


def test_no_git_is_asked_of_a_folder_that_is_none(tmp_path: Path) -> None:
    assert read_code_state(tmp_path / "gone") == CodeState()
