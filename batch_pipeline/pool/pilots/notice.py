"""Hears that AWS is about to take a Spot instance away, for pilots that run on one outside AWS Batch.

Two minutes before, the instance's metadata says so; AWS recommends looking every five seconds:
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html. In jobs of AWS Batch the
container agent turns the notice into SIGTERM, and nothing need look.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable
from threading import Event, Thread
from typing import Final

#: AWS's own address on every instance; the variable is the one that its SDKs know.
ENDPOINT: Final = "http://169.254.169.254"
ENDPOINT_VARIABLE: Final = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
LOOK_SECONDS: Final = 5.0
_PATIENCE_SECONDS: Final = 2.0
_TOKEN_SECONDS: Final = 21_600


class NoticeWatch:
    """Looks for a notice in a thread of its own, until there is one or it is closed."""

    def __init__(
        self, noticed: Callable[[], object], *, tell: Callable[[str], object], look_seconds: float = LOOK_SECONDS
    ) -> None:
        self._noticed = noticed
        self._tell = tell
        self._look_seconds = look_seconds
        self._closed = Event()
        self._endpoint = (os.environ.get(ENDPOINT_VARIABLE) or ENDPOINT).rstrip("/")
        self._thread = Thread(target=self._run, name="spot-notice", daemon=True)

    def __enter__(self) -> NoticeWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join(2 * _PATIENCE_SECONDS + 1)

    def _run(self) -> None:
        token = self._ask("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)})
        if not token:
            self._tell(f"No instance metadata answers at {self._endpoint}: no notice of a Spot instance will be heard.")
            return
        while not self._closed.is_set():
            notice = self._ask("GET", "/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
            if notice is None:  # the token's time is over, or the service was busy
                again = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
                token = self._ask("PUT", "/latest/api/token", again) or token
            elif notice:
                self._tell("AWS is about to take this Spot instance away.")
                self._noticed()
                return
            self._closed.wait(self._look_seconds)

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> str | None:
        """What the service says; empty: there is no such thing (404); None: it could not be asked."""
        request = urllib.request.Request(self._endpoint + path, method=method, headers=headers)
        try:
            # A proxy of the environment is not asked for what is on this very machine.
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                request, timeout=_PATIENCE_SECONDS
            ) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            error.close()
            return "" if error.code == 404 else None
        except OSError:
            return None
