"""Which identity reaches S3: on the client by botocore's chain, in the jobs of the embedded Batch by what is lent."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from batch_pipeline.backends.aws_clients import aws_maker
from batch_pipeline.backends.credentials import identity_of, reach_of
from batch_pipeline.config import Settings, load_settings
from batch_pipeline.localbatch.api.identity import AwsIdentity
from batch_pipeline.localbatch.client import ensure, lend, stop
from batch_pipeline.wire.errors import InvalidConfig, StoreFailed
from batch_pipeline.wire.store import open_store
from tests.s3.conftest import BUCKET, REGION, Service

pytestmark = pytest.mark.moto


def settings_with(**values: str) -> Settings:
    flags = {key.replace("__", "."): value for key, value in values.items()}
    return load_settings(flags, environ={}, folder=Path("/nowhere"))


def write_profiles(home: Path) -> None:
    """A profile with keys, one whose keys come from a program with an end, one that asks a program that fails."""
    folder = home / ".aws"
    folder.mkdir()
    told = {
        "Version": 1,
        "AccessKeyId": "temporary",
        "SecretAccessKey": "s",
        "SessionToken": "t",
        "Expiration": "2099-01-01T00:00:00Z",
    }
    (home / "keys.json").write_text(json.dumps(told))
    (folder / "credentials").write_text("[lab]\naws_access_key_id = of-the-lab\naws_secret_access_key = s\n")
    fail = f"{sys.executable} -c 'raise SystemExit(\"out\")'"
    (folder / "config").write_text(
        f"[profile lab]\nregion = {REGION}\n"
        f"[profile signed-in]\nregion = {REGION}\ncredential_process = cat {home}/keys.json\n"
        f"[profile signed-out]\nregion = {REGION}\ncredential_process = {fail}\n"
    )


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_profiles(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("profile", "key_id"), [("lab", "of-the-lab"), ("signed-in", "temporary")])
@pytest.mark.parametrize("how", ["setting", "variable"])
def test_a_profile_is_used_with_its_region(
    profile: str, key_id: str, how: str, home: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "variable":
        monkeypatch.setenv("AWS_PROFILE", profile)
    settings = settings_with(aws__s3_endpoint=service.url, aws__profile=profile if how == "setting" else "")
    store = open_store(f"s3://{BUCKET}/prefix", reach=reach_of(settings))
    store.put("key", b"")
    (one,) = service.asked
    assert one.key_id == key_id
    assert one.headers["authorization"].split("/")[2] == REGION
    assert store.variables["AWS_REGION"] == REGION
    assert ("x-amz-security-token" in one.headers) == (profile == "signed-in")


def test_keys_of_the_environment_need_no_botocore(
    service: Service, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    for name, value in {"ACCESS_KEY_ID": "mine", "SECRET_ACCESS_KEY": "s", "REGION": REGION}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    access = reach_of(settings_with(aws__s3_endpoint=service.url))()
    assert access.credentials is None
    # A profile that was asked for goes before them.
    settings = settings_with(aws__s3_endpoint=service.url, aws__profile="lab")
    open_store(f"s3://{BUCKET}/prefix", reach=reach_of(settings)).put("key", b"")
    assert service.asked[-1].key_id == "of-the-lab"
    assert identity_of(settings) == {"AWS_PROFILE": "lab", "AWS_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true"}


def test_batch_and_s3_are_in_the_same_region(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    from botocore.config import Config

    monkeypatch.setenv("AWS_REGION", "ca-central-1")
    settings = settings_with(aws__profile="lab")
    client = aws_maker(settings.aws)()("batch", Config())
    assert client.meta.region_name == reach_of(settings)().region == "ca-central-1"
    client.close()


def test_settings_go_before_the_environment(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-2")
    access = reach_of(settings_with(aws__profile="lab"))()
    assert (access.endpoint, access.region, access.kms_key) == ("http://127.0.0.1:1", "us-east-2", "")
    told = {"aws__s3_endpoint": "http://127.0.0.1:2", "aws__region": "us-west-1", "store__kms_key": "alias/lab"}
    access = reach_of(settings_with(aws__profile="lab", **told))()
    assert (access.endpoint, access.region, access.kms_key) == ("http://127.0.0.1:2", "us-west-1", "alias/lab")
    assert "of-the-lab" not in repr(access)


def test_what_is_wrong_with_the_identity_is_said(service: Service, home: Path) -> None:
    def opened(profile: str) -> None:
        settings = settings_with(aws__s3_endpoint=service.url, aws__profile=profile)
        open_store(f"s3://{BUCKET}/prefix", reach=reach_of(settings)).put("key", b"")

    with pytest.raises(InvalidConfig, match=r"\(absent\) could not be found. Set aws.profile"):
        opened("absent")
    with pytest.raises(StoreFailed, match=r"No AWS credentials were found\. Run `aws configure`") as none:
        opened("")
    with pytest.raises(StoreFailed, match=r"cannot be had \(.*out\)\. Sign in again") as out:
        opened("signed-out")
    assert not none.value.transient
    assert not out.value.transient
    assert none.value.exit_code == out.value.exit_code == 4
    assert service.asked == []


# The embedded Batch's side.


def ask(url: str, token: str) -> dict[str, str]:
    request = Request(url, headers={"Authorization": token})
    with urlopen(request, timeout=30) as answer:
        told: dict[str, str] = json.loads(answer.read())
    return told


@pytest.mark.engine
def test_a_server_lends_to_who_has_its_token_alone(home: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    endpoint = ensure(state)
    try:
        variables = AwsIdentity(state).variables(endpoint.url)
        url = variables["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
        file = Path(variables["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"])
        token = file.read_text()
        assert state.stat().st_mode & 0o077 == file.parent.stat().st_mode & 0o077 == 0
        with pytest.raises(HTTPError) as nobody:
            ask(url, token)
        assert json.loads(nobody.value.read())["message"].startswith("No AWS credentials were found.")
        nobody.value.close()
        lend(endpoint, {"AWS_PROFILE": "lab"})
        assert ask(url, token)["AccessKeyId"] == "of-the-lab"
        assert ask(url, token)["Token"] is None
        lend(endpoint, {"AWS_PROFILE": "signed-in"})
        assert ask(url, token)["Token"] == "t"
        lend(endpoint, {"AWS_ACCESS_KEY_ID": "mine", "AWS_SECRET_ACCESS_KEY": "s"})
        assert ask(url, token)["AccessKeyId"] == "mine"
        for wrong in ("", "x", token[:-1]):
            with pytest.raises(HTTPError) as refused:
                ask(url, wrong)
            refused.value.close()
        other = type(endpoint)(
            url=endpoint.url, access_key="k", secret_key="another", region=endpoint.region, pid=endpoint.pid
        )
        lend(other, {"AWS_ACCESS_KEY_ID": "intruder", "AWS_SECRET_ACCESS_KEY": "s"})
        assert ask(url, token)["AccessKeyId"] == "mine"
        assert not [path for path in state.rglob("*") if path.is_file() and b"of-the-lab" in path.read_bytes()]
    finally:
        stop(state)
    endpoint = ensure(state)
    try:
        assert file.read_text() == token
    finally:
        stop(state)


@pytest.mark.parametrize("session", [None, "t"])
def test_a_job_on_this_machine_asks_for_its_keys(
    session: str | None, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    asked = []

    class Role(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            keys = {
                "AccessKeyId": "lent",
                "SecretAccessKey": "s",
                "Token": session,
                "Expiration": "2099-01-01T00:00:00Z",
            }
            body = json.dumps(keys).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Role)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    (tmp_path / "token").write_text("sesame")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{server.server_port}/role")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", service.url)
    monkeypatch.setenv("AWS_REGION", REGION)
    try:
        store = open_store(f"s3://{BUCKET}/prefix")
        store.put("a", b"")
        store.put("b", b"")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert asked == [("/role", "sesame")]
    assert {one.key_id for one in service.asked} == {"lent"}
    assert {one.headers.get("x-amz-security-token") for one in service.asked} == {session}
