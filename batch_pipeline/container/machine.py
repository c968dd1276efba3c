"""On what a container runs: instance type, availability zone, Spot or not, as far as AWS tells it.

Asked at the end of an attempt, once a process, and only where ECS says that it started this: anywhere else nothing is
asked and nothing imported. What does not answer within half a second is left open. An instance's metadata service
must let answers through one more hop for containers in a network of their own (`HttpPutResponseHopLimit: 2`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batch_pipeline.wire.contract import EXECUTION, METADATA

#: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
IMDS = "http://169.254.169.254"
#: Another place for it; the name is that of AWS's own libraries.
IMDS_VARIABLE = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What is known of the host; empty where AWS does not say."""

    #: `m5.xlarge`, or `fargate`.
    instance_type: str = ""
    availability_zone: str = ""
    #: `spot` or `on-demand`.
    purchase: str = ""


NOWHERE = Machine()


def machine_of(environment: Mapping[str, str]) -> Machine:
    """The machine of a container with this environment. Never raises; takes two seconds at the most."""
    uri, execution = environment.get(METADATA, ""), environment.get(EXECUTION, "")
    if not uri and not execution.startswith("AWS_ECS"):
        return NOWHERE
    task = _task(uri) if uri else {}
    zone = str(task.get("AvailabilityZone") or "")
    if "FARGATE" in (execution.upper().rpartition("_")[2], str(task.get("LaunchType", "")).upper()):
        return Machine(instance_type="fargate", availability_zone=zone)
    return _instance(environment.get(IMDS_VARIABLE, IMDS).rstrip("/"), zone)


def _task(uri: str) -> dict[str, Any]:
    import json

    try:
        answer = json.loads(_answer("GET", f"{uri}/task") or "{}")
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _instance(service: str, zone: str) -> Machine:
    """IMDSv2: a token first, then questions with it."""
    token = _answer("PUT", f"{service}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    if not token:
        return Machine(availability_zone=zone)

    def metadata(name: str) -> str:
        return _answer("GET", f"{service}/latest/meta-data/{name}", {"X-aws-ec2-metadata-token": token})

    return Machine(
        instance_type=metadata("instance-type"),
        availability_zone=zone or metadata("placement/availability-zone"),
        purchase=metadata("instance-life-cycle"),
    )


def _answer(method: str, url: str, headers: Mapping[str, str] | None = None) -> str:
    """The answer's text; empty for none."""
    import http.client
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=SECONDS)
    try:
        connection.request(method, parts.path, headers=dict(headers or {}))
        response = connection.getresponse()
        text = response.read(1 << 16).decode(errors="replace")
        return text.strip() if response.status == 200 else ""
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()
