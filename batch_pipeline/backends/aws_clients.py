"""Makes every AWS client of the backend, and counts the calls of each.

There are two clients for Batch. The one that reads may send again what got no answer: ten times, with a rate that
adapts to throttling. The one that submits sends once: SubmitJob has no client token, and botocore sends it again after
a read timeout in every retry mode, so that one call would queue two jobs.

Clients come from botocore's own session, which is all that boto3's `client()` is; importing boto3 as well would cost a
fifth of a second more. Nothing is imported or connected before the first call.

(A little longer than most modules: what is known of botocore's insides stays in one place.)
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Protocol

from batch_pipeline.backends.aws_errors import CallOutcome, classify_error, translated
from batch_pipeline.log import Facts
from batch_pipeline.wire.errors import BatchPipelineError
from batch_pipeline.wire.toolchain import HEADER, Toolchain

if TYPE_CHECKING:
    from batch_pipeline.config import AwsSettings, EmbeddedSettings

_LOG: Final = logging.getLogger(__name__)
#: Seconds to wait for SubmitJob's answer: giving up earlier only makes doubt.
SUBMIT_TIMEOUT_SECONDS = 120


def chunks(items: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """The items in their order, at most so many at once: as a request takes them."""
    return (items[start : start + most] for start in range(0, len(items), most))


class ClientMaker(Protocol):
    """Makes one client."""

    def __call__(self, service: str, config: Any) -> Any:
        """A client of a service (`batch`, `logs`) with a botocore `Config`."""


class Clients:
    """The clients of one endpoint, made on first use.

    `calls` counts API operations by name: one a call of ours, however often botocore sends it.
    """

    def __init__(self, connect: Callable[[], ClientMaker], *, renewable: bool = False) -> None:
        #: Says where to connect to; asked again by `renew`.
        self._connect = connect
        #: Whether asking again may help: the endpoint of a server that comes and goes.
        self.renewable = renewable
        self.calls: Counter[str] = Counter()
        self._maker: ClientMaker | None = None
        self._connecting = threading.Lock()
        self._made: dict[str, Any] = {}

    def connect_ahead(self) -> None:
        """Connects on a thread of its own; what goes wrong there is met again, and told, by the first call."""

        def connect() -> None:
            try:
                self._connected()
            except (BatchPipelineError, OSError):
                pass

        threading.Thread(target=connect, name="connect ahead", daemon=True).start()

    def read(self, operation: str, /, *, service: str = "batch", **parameters: Any) -> dict[str, Any]:
        """Calls an operation that may be sent again. Raises BackendFailed, InvalidConfig."""
        try:
            return self._call(service, operation, parameters)
        except botocore_errors() as error:
            if not self.renewable or classify_error(error) is not CallOutcome.UNSENT:
                raise translated(operation, error, self._place(service)) from error
        _LOG.info("retried %s", Facts(call=operation, at="a new endpoint"))
        self.renew()
        try:
            return self._call(service, operation, parameters)
        except botocore_errors() as error:
            raise translated(operation, error, self._place(service)) from error

    def pages(self, operation: str, key: str, /, **parameters: Any) -> Iterator[dict[str, Any]]:
        """The items under `key` of all pages."""
        while True:
            answer = self.read(operation, **parameters)
            yield from answer.get(key, ())
            if not answer.get("nextToken"):
                return
            parameters["nextToken"] = answer["nextToken"]

    def submit(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Sends SubmitJob once. Raises `botocore_errors`: the caller asks `classify_error` them."""
        return self._call("submit", "submit_job", parameters)

    def has_operation(self, operation: str) -> bool:
        """Whether the Batch client that is installed has the operation: some are newer than botocore."""
        return hasattr(self._client("batch"), operation)

    def region(self, service: str) -> str:
        """The region of a service's client."""
        return str(self._client(service).meta.region_name)

    def renew(self) -> None:
        """Asks for the endpoint again; the next call makes new clients."""
        self.close()
        self._maker = None

    def close(self) -> None:
        """Closes the connections; the next call opens new ones."""
        for client in self._made.values():
            client.close()
        self._made.clear()

    def _place(self, service: str) -> str:
        return "embedded" if self.renewable else service

    def _call(self, name: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(self._client(name), operation)(**parameters)
        # botocore tries again by itself, after a throttled call or a lost answer, and says so in the answer alone.
        retries = answer.get("ResponseMetadata", {}).get("RetryAttempts", 0)
        if retries:
            _LOG.info("retried %s", Facts(call=operation, times=retries, by="botocore"))
        return answer

    def _client(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Any:
        client = self._connected()("batch" if name == "submit" else name, _config(name, patient=not self.renewable))
        client.meta.events.register("before-call", self._count)
        client.meta.events.register("after-call", _refuse_page)
        return client

    def _connected(self) -> ClientMaker:
        with self._connecting:
            if self._maker is None:
                self._maker = self._connect()
            return self._maker

    def _count(self, model: Any, **_: Any) -> None:
        self.calls[model.name] += 1


def aws_maker(settings: AwsSettings) -> Callable[[], ClientMaker]:
    """Clients of AWS, or of the endpoint in the settings, by botocore's own chain of credentials."""

    def connect() -> ClientMaker:
        import botocore.session

        session = botocore.session.Session(profile=settings.profile or None)

        def make(service: str, config: Any) -> Any:
            # What stands in for AWS speaks Batch's API; other services are asked where AWS's own environment says.
            endpoint = settings.endpoint if service in ("batch", "logs") else ""
            place: Any = {
                "region_name": settings.region or os.environ.get("AWS_REGION"),
                "endpoint_url": endpoint or None,
            }
            return session.create_client(service, config=config, **place)

        return make

    return connect


def embedded_maker(settings: EmbeddedSettings, identity: Mapping[str, str] | None = None) -> Callable[[], ClientMaker]:
    """Clients of the embedded Batch, which is started if it does not run; the user's AWS files are not looked at.

    `identity` is lent to its jobs, for a store in S3: `credentials.identity_of`. Each job brings the toolchain of this
    process along.
    """

    def connect() -> ClientMaker:
        from batch_pipeline.localbatch.client import ensure, lend

        toolchain = Toolchain.of_this_process().to_header()
        with _reading_ahead():
            endpoint = ensure(
                settings.folder,
                vcpus=settings.vcpus or None,
                memory_mib=settings.memory_mb or None,
                idle_seconds=settings.idle_seconds,
                container=settings.container,
            )
        if identity is not None:
            lend(endpoint, identity)
        from botocore.config import Config

        def make(service: str, config: Any) -> Any:
            client = _bare_session().create_client(
                service,
                endpoint_url=endpoint.url,
                region_name=endpoint.region,
                aws_access_key_id=endpoint.access_key,
                aws_secret_access_key=endpoint.secret_key,
                # It is on loopback: no proxy of the environment stands between.
                config=config.merge(Config(proxies={})),
            )
            # The look-up of definitions comes first, so that the server may start what jobs of this toolchain need.
            for operation in ("DescribeJobDefinitions", "SubmitJob"):
                client.meta.events.register(f"before-call.batch.{operation}", bring_toolchain)
            return client

        def bring_toolchain(params: dict[str, Any], **_: Any) -> None:
            params["headers"][HEADER] = toolchain

        return make

    return connect


def attached_maker(attach: Callable[[Any], object]) -> Callable[[], ClientMaker]:
    """Clients that open no socket but go where `attach` leads them, such as `VirtualBatch.attach`; for tests."""
    keys: Any = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}

    def make(service: str, config: Any) -> Any:
        client = _bare_session().create_client(service, config=config, **keys)
        attach(client)
        return client

    return lambda: make


def _refuse_page(http_response: Any, **_: Any) -> None:
    """Raises for a web page in place of an answer: botocore would take it for an empty one."""
    # A gateway that is too busy says so in HTML.
    if http_response.status_code < 500 and "text/html" in http_response.headers.get("Content-Type", ""):
        title = re.search(rb"<title>\s*(.*?)\s*</title>", http_response.content, re.IGNORECASE | re.DOTALL)
        words = title[1].decode(errors="replace") if title else "without a title"
        raise _web_page_answered()(url=http_response.url, title=words)


@cache
def _web_page_answered() -> Callable[..., Exception]:
    """An error of botocore's kind, which is imported no sooner than one is met."""
    from botocore.exceptions import BotoCoreError

    class WebPageAnswered(BotoCoreError):
        fmt = "{url} answers with a web page, {title!r}"

    return WebPageAnswered


@contextmanager
def _reading_ahead() -> Iterator[None]:
    """Meanwhile imports botocore and reads its models for a first client, which the session keeps for the next one."""

    def read() -> None:
        keys: Any = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "us-east-1"}
        _bare_session().create_client("batch", endpoint_url="http://127.0.0.1", **keys)

    reading = threading.Thread(target=read, name="read ahead", daemon=True)
    reading.start()
    yield
    # A session makes one client at a time.
    reading.join()


@cache
def _bare_session() -> Any:
    """A session for an endpoint that is known, which looks at none of the user's AWS files and keeps what it read.

    botocore would look through the folders of its four hundred services twice, and read where each of them is on AWS:
    two thirds of the time of a first client.
    """
    import botocore.session
    from botocore.loaders import Loader

    class OwnServices(Loader):
        def list_available_services(self, type_name: str) -> list[str]:
            return ["batch", "logs"]

        def load_data_with_path(self, name: str) -> Any:
            return ({"partitions": []}, "") if name == "endpoints" else super().load_data_with_path(name)

    nothing: Any = (None, None, None, None)
    unread: Any = dict.fromkeys(("profile", "config_file", "credentials_file", "ca_bundle"), nothing)
    session = botocore.session.Session(session_vars=unread)
    session.register_component("data_loader", OwnServices())
    return session


def botocore_errors() -> tuple[type[Exception], ...]:
    """What a call of a client raises; botocore is imported no sooner than one did."""
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError


def _config(name: str, *, patient: bool) -> Any:
    """How a client waits and tries again.

    https://docs.aws.amazon.com/boto3/latest/guide/retries.html. A server on loopback that does not answer is gone: it
    is better to start it again soon than to insist.
    """
    from botocore.config import Config

    if name == "submit":
        once: Any = {"mode": "standard", "total_max_attempts": 1}
        return Config(retries=once, connect_timeout=10, read_timeout=SUBMIT_TIMEOUT_SECONDS)
    retries: Any = {"mode": "adaptive", "max_attempts": 10} if patient else {"mode": "standard", "max_attempts": 2}
    return Config(retries=retries, connect_timeout=10, read_timeout=60)
