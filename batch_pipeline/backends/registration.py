"""Registers job definitions with AWS Batch, unless the name that ends in a definition's digest is there already.

One look-up for a hundred names; the revisions are kept, so that a definition is asked for once however many jobs name
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from batch_pipeline.backends.aws_clients import Clients, chunks
from batch_pipeline.backends.definitions import NO_IMAGE
from batch_pipeline.backends.quotas import JOBS_PER_DESCRIBE
from batch_pipeline.backends.rate_limit import RetryLater, retry_transient
from batch_pipeline.wire.errors import BackendFailed, SubmissionRefused


class DefinitionRegistrar:
    """Looks up and registers job definitions; `allows_no_image` where jobs may be processes of this machine."""

    def __init__(self, clients: Clients, *, allows_no_image: bool) -> None:
        self._clients = clients
        self._allows_no_image = allows_no_image
        #: Name of a definition -> its revision, of those that `prepare` met.
        self.revisions: dict[str, int] = {}

    def prepare(self, definitions: Iterable[Mapping[str, Any]]) -> Mapping[str, str]:
        """See `Backend.prepare`."""
        wanted = {definition["jobDefinitionName"]: definition for definition in definitions}
        new = {name: definition for name, definition in wanted.items() if name not in self.revisions}
        self._refuse_without_image(new.values())
        for names in chunks(list(new), JOBS_PER_DESCRIBE):
            self._look_up(names)
        for name, definition in new.items():
            if name not in self.revisions:
                self._register(definition)
        return {name: f"{name}:{self.revisions[name]}" for name in wanted}

    def _refuse_without_image(self, definitions: Iterable[Mapping[str, Any]]) -> None:
        for definition in definitions:
            if not self._allows_no_image and definition["containerProperties"]["image"] == NO_IMAGE:
                raise SubmissionRefused(
                    f"The job definition {definition['jobDefinitionName']} names no image, and AWS runs containers "
                    "only. Set `image` in the step's class or in job_definitions/."
                )

    def _look_up(self, names: Sequence[str]) -> None:
        """Pins the names that are registered. Their content is in the name, so the first revision is the one.

        Unless somebody deregistered it: then any active one is as good. `jobDefinitions` goes with no other parameter.
        """
        first = [f"{name}:1" for name in names]
        inactive = []
        for item in self._clients.pages("describe_job_definitions", "jobDefinitions", jobDefinitions=first):
            if item["status"] == "ACTIVE":
                self._pin(item)
            else:
                inactive.append(item["jobDefinitionName"])
        for name in inactive:
            active = {"jobDefinitionName": name, "status": "ACTIVE"}
            for item in self._clients.pages("describe_job_definitions", "jobDefinitions", **active):
                self._pin(item)

    def _register(self, definition: Mapping[str, Any]) -> None:
        try:
            self._pin(retry_transient(lambda: self._register_once(definition)))
        except BackendFailed as error:
            if error.transient:
                raise
            name = definition["jobDefinitionName"]
            raise SubmissionRefused(f"The job definition {name} is refused: nothing was queued. {error}") from error

    def _register_once(self, definition: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self._clients.read("register_job_definition", **definition)
        except BackendFailed as error:
            # Two drivers registering the same name at once: AWS asks one of them to come again.
            if "Too many concurrent attempts" in str(error):
                raise RetryLater(error.message) from error
            raise

    def _pin(self, item: Mapping[str, Any]) -> None:
        self.revisions[item["jobDefinitionName"]] = item["revision"]
