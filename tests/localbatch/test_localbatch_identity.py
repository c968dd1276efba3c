"""What keeps a lent identity from others. That it reaches jobs is tested beside the stores in S3."""

from __future__ import annotations

from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from batch_pipeline.localbatch.api.identity import AwsIdentity
from batch_pipeline.wire.errors import BackendFailed


def test_workers_that_outlive_a_server_ask_the_next_one_with_its_token(tmp_path: Path) -> None:
    AwsIdentity(tmp_path)
    token = (tmp_path / "identity" / "token").read_text()
    assert AwsIdentity(tmp_path).knows(token)


def test_an_empty_file_is_nobodys_token(tmp_path: Path) -> None:
    """A machine that loses its power may leave one."""
    AwsIdentity(tmp_path)
    file = tmp_path / "identity" / "token"
    file.write_text("")
    identity = AwsIdentity(tmp_path)
    assert not identity.knows("")
    assert identity.knows(file.read_text())


def test_what_no_header_should_hold_is_no_token(tmp_path: Path) -> None:
    assert not AwsIdentity(tmp_path).knows("\xe9\u2028")


def test_a_role_that_may_not_be_taken_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "not authorized"}}, "AssumeRole")

    monkeypatch.setattr("botocore.session.Session.get_credentials", refuse)
    with pytest.raises(BackendFailed, match="not authorized"):
        AwsIdentity(tmp_path).credentials()
