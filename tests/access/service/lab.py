"""A service with two datasets of its own in a folder: real policies, real records, the real gate."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
from starlette.types import ASGIApp, Message, Scope

from batch_pipeline.access.admission import AdmissionContext, admit
from batch_pipeline.access.launching import store_of, write_run
from batch_pipeline.access.request import SubmitRequest, UserIdentity
from batch_pipeline.access.service.app import make_app
from batch_pipeline.access.service.audit import AuditLog
from batch_pipeline.access.service.catalogue import Catalogue
from batch_pipeline.access.service.guard import GuardConfig, RequestGuard
from batch_pipeline.access.service.keys import IssuerKeys
from batch_pipeline.access.service.limits import Limiter
from batch_pipeline.access.service.models import Started
from batch_pipeline.access.service.reports import ReportPages
from batch_pipeline.access.service.service import Service
from batch_pipeline.access.service.tokens import TokenRules, Verifier
from batch_pipeline.config import Settings, load_settings
from batch_pipeline.records.history import Happened, append, new_run_id
from batch_pipeline.records.record import RunRecord, write_end
from batch_pipeline.wire import layout
from batch_pipeline.wire.store import Store, open_store
from tests.access.service.oidc import AUDIENCE, Issuer

ALICE = "alice@example.org"
BOB = "bob@example.org"

_POLICY = """
dataset = "{dataset}"

[levels.test]
store = "{root}/{dataset}-test"
output_prefix = "analysis"
queue = "test"
job_role = "arn:aws:iam::111122223333:role/{dataset}-test"
members = [{members}]
without_image = true

[levels.standard]
store = "{root}/{dataset}-main"
queue = "main"
job_role = "arn:aws:iam::111122223333:role/{dataset}-main"
members = [{members}]
without_image = true
"""


class Client:
    """Asks an application as a server would that has it."""

    def __init__(self, app: ASGIApp, headers: dict[str, str]) -> None:
        self.app = app
        self.headers = headers

    def get(self, url: str, **more: Any) -> httpx.Response:
        return self.request("GET", url, **more)

    def post(self, url: str, **more: Any) -> httpx.Response:
        return self.request("POST", url, **more)

    def page(self, url: str) -> httpx.Response:
        """As a browser."""
        return self.get(url, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})

    def request(self, method: str, url: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.request(method, url, headers={**self.headers, **(headers or {})}, **more)

        return asyncio.run(ask())

    def get_raw(self, path: str) -> tuple[int, bytes]:
        """Status and body for a path that no client would send: nothing is put in order before it is sent."""
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in self.headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        asyncio.run(self.app(scope, receive, send))  # type: ignore[arg-type]
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


class Lab:
    """alice is a member of fusions, bob of methylation; both stores of each are folders."""

    def __init__(self, root: Path, issuer: Issuer) -> None:
        self.root = root
        self.issuer = issuer
        (root / "policies").mkdir()
        for dataset, member in (("fusions", ALICE), ("methylation", BOB)):
            self.write_policy(dataset, [member])
            for level in ("test", "main"):
                (root / f"{dataset}-{level}").mkdir()
        self.audit_file = root / "audit.jsonl"
        self.settings: Settings = load_settings({"access.policies": str(root / "policies")}, environ={}, folder=root)

    def write_policy(self, dataset: str, members: list[str]) -> None:
        names = ", ".join(f'"{name}"' for name in members)
        text = _POLICY.format(dataset=dataset, root=self.root, members=names)
        (self.root / "policies" / f"{dataset}.toml").write_text(text)

    def service(self, **changes: Any) -> Service:
        rules = TokenRules(audience=AUDIENCE)
        base = Service(
            catalogue=Catalogue(str(self.root / "policies"), open_store),
            start=self.start,
            reports=ReportPages(self.settings),
            audit=AuditLog(self.audit_file),
            users=Limiter(100_000),
            verifier=Verifier(IssuerKeys(self.issuer.url), rules),
        )
        return replace(base, **changes)

    def app(self, *, per_minute: int = 100_000, hosts: frozenset[str] = frozenset(), **changes: Any) -> RequestGuard:
        service = self.service(**changes)
        keeping = GuardConfig(audit=service.audit, addresses=Limiter(per_minute), hosts=hosts)
        return RequestGuard(make_app(service), keeping)

    def client(self, token: str | None = "", *, app: ASGIApp | None = None, **changes: Any) -> Client:
        """As alice; None: as nobody."""
        told = self.issuer.token() if token == "" else token
        headers = {} if told is None else {"Authorization": f"Bearer {told}"}
        return Client(app or self.app(**changes), headers)

    def start(self, ask: SubmitRequest, identity: UserIdentity) -> Started:
        """The real gate and the real record; no job is sent."""
        grant = admit(ask, identity, AdmissionContext(policies=str(self.root / "policies"), cache=self.root / "cache"))
        run_id = new_run_id()
        store = store_of(grant.store, self.settings)
        write_run(store, grant, self.settings, run_id, ())
        return Started(run_id=run_id, native_id="", output=store.url_of(grant.output), url=f"/runs/{run_id}")

    def store(self, name: str = "fusions-test") -> Store:
        return open_store(str(self.root / name))

    def record(self, place: str = "fusions-test", *, done: int | None = None, failed: int = 0, **changes: Any) -> str:
        """A run as a driver would have recorded it; ended when `done` is given."""
        dataset = place.rpartition("-")[0]
        record = RunRecord(
            run_id=changes.pop("run_id", None) or new_run_id(),
            started_at="2026-11-20T10:00:00.000Z",
            kind="driver",
            pipeline="main.sh",
            pipeline_name=dataset,
            user=ALICE,
            identity=ALICE,
            host="server",
            repository="https://github.com/lab/fusions",
            commit="3fa9" * 10,
            dataset=dataset,
            access_level="test" if place.endswith("test") else "standard",
            output_prefix="analysis/cohort-7" if place.endswith("test") else "cohort-7",
            argv=("main.sh", "--all"),
            description="The spring cohort",
            jobs=1,
        )
        record = replace(record, **changes)
        store = self.store(place)
        store.put_if_absent(layout.run_record(record.run_id), json.dumps(asdict(record)).encode())
        if done is not None:
            write_end(store, record.run_id, done=done, failed=failed)
        return record.run_id

    def fail_submission(self, run_id: str, why: str, place: str = "fusions-test") -> None:
        append(self.store(place), run_id, Happened.SUBMISSION_FAILED, why)
        write_end(self.store(place), run_id, done=0, failed=0)

    def result(self, path: str, data: bytes, place: str = "fusions-test") -> Path:
        file = self.root / place / ("analysis" if place.endswith("test") else "") / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    def audit(self) -> list[dict[str, Any]]:
        text = self.audit_file.read_text() if self.audit_file.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def ask(self, **changes: Any) -> dict[str, Any]:
        base = {
            "dataset": "fusions",
            "description": "The spring cohort",
            "access_level": "test",
            "output_dir": "cohort-7",
            "script": ["echo", "hello"],
        }
        return {**base, **changes}
