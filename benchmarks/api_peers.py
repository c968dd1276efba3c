"""Ours and peers on AWS Batch, each as its documentation would have it: samples x 3 steps that copy one small file.

Batch is the embedded one, whose log of calls tells what it was asked, with queue and (for Luigi, which makes none) job
definition made beforehand; S3, and whatever else of AWS a peer asks, is moto behind a counter. Both are named in an AWS
configuration file below a home of its own, so that the peers' jobs, which run as processes here, find them as the peers
themselves do. Each peer has an environment of its own, for their demands exclude each other.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batch_pipeline.localbatch.client import stop
from batch_pipeline.localbatch.endpoint import Endpoint, read_endpoint
from benchmarks.peers import Peers, cache_folder

REGION = "us-east-1"
BUCKET = "peers"
QUEUE = "peers"
STEPS = (1, 2, 3)
#: What the embedded Batch hands out.
VCPUS, MEMORY_MB = 4, 65_536
#: Seconds after which a peer has hung.
PATIENCE = 900
ROLE = "arn:aws:iam::123456789012:role/peers"
_ROOT = Path(__file__).resolve().parent.parent

_LUIGI = """
import luigi
from luigi.contrib.batch import BatchTask

class Copy(BatchTask):
    sample, step = luigi.IntParameter(), luigi.IntParameter()
    job_definition, job_queue, poll_time = "copy", "peers", 1

    def requires(self):
        return Copy(sample=self.sample, step=self.step - 1) if self.step > 1 else []

    def output(self):
        return luigi.LocalTarget(f"{FOLDER}/{self.sample}.{self.step}")

    @property
    def parameters(self):
        return {"from": f"{FOLDER}/{self.sample}.{self.step - 1}", "to": self.output().path}

class All(luigi.WrapperTask):
    def requires(self):
        return [Copy(sample=sample, step=3) for sample in range(SAMPLES)]
"""

_REDUN = """
from redun import File, task

redun_namespace = "peers"

@task(executor="batch")
def copy(source: File, target: str) -> File:
    return source.copy_to(File(target))

def chain(sample: int) -> File:
    file = File(f"s3://peers/{sample}.0")
    for step in (1, 2, 3):
        file = copy(file, f"s3://peers/{sample}.{step}")
    return file

@task()
def main() -> list:
    return [chain(sample) for sample in range(SAMPLES)]
"""
_REDUN_SETTINGS = """
[backend]
db_uri = sqlite:///redun.db
[executors.batch]
type = aws_batch
image = none
queue = peers
role = none
s3_scratch = s3://peers/scratch
aws_region = us-east-1
memory = 1
job_monitor_interval = 1
"""

_SNAKEMAKE = """
rule all:
    input: expand("{sample}.3", sample=range(SAMPLES))

rule copy_1:
    input: "{sample}.0"
    output: "{sample}.1"
    shell: "cp {input} {output}"

rule copy_2:
    input: "{sample}.1"
    output: "{sample}.2"
    shell: "cp {input} {output}"

rule copy_3:
    input: "{sample}.2"
    output: "{sample}.3"
    shell: "cp {input} {output}"
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one peer asked of AWS."""

    name: str
    #: Calls by operation; of S3 by method.
    batch: Mapping[str, int] = field(default_factory=dict)
    s3: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    #: Why there are no figures; empty: there are.
    why_not: str = ""

    @property
    def others(self) -> int:
        """Calls to Batch beside submitting, registering and describing jobs."""
        named = ("SubmitJob", "RegisterJobDefinition", "DescribeJobs")
        return sum(number for name, number in self.batch.items() if name not in named)


@dataclass(frozen=True, kw_only=True)
class Site:
    """The stand-in for AWS that peers run against."""

    folder: Path
    home: Path
    batch: Endpoint
    s3_url: str
    s3_calls: Counter[str]

    def client(self, service: str) -> Any:
        """A client of ours."""
        import botocore.session

        return botocore.session.Session().create_client(
            service,
            endpoint_url=self.batch.url if service == "batch" else self.s3_url,
            region_name=REGION,
            aws_access_key_id=self.batch.access_key,
            aws_secret_access_key=self.batch.secret_key,
        )

    def batch_calls(self) -> Counter[str]:
        """Calls so far by operation, as the server has them."""
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials
        from botocore.httpsession import URLLib3Session

        request: Any = AWSRequest("GET", f"{self.batch.url}/_calls", headers={})
        keys = Credentials(self.batch.access_key, self.batch.secret_key)
        SigV4Auth(keys, "batch", self.batch.region).add_auth(request)
        answer = URLLib3Session().send(request.prepare())
        return Counter(call["operation"] for call in json.loads(answer.content))


def measured(samples: int, names: Sequence[str] = ()) -> list[Measured]:
    """Installs and runs ours and each peer, or those named, one after the other."""
    return [_measured(name, peer, samples) for name, peer in PEERS.items() if not names or name in names]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """How a peer is installed and run."""

    packages: Mapping[str, str]
    #: Writes what it needs into a folder, and returns its command.
    prepare: Callable[[Path, int, Site], Sequence[str]]
    #: Where its last results lie: `{}` is the sample.
    results: str


def _measured(name: str, peer: Peer, samples: int) -> Measured:
    programs = Path(sys.executable).parent
    if peer.packages:
        environment = Peers(cache_folder(), f"api-{name.split()[0]}", peer.packages)
        environment.install()
        if environment.missing:
            return Measured(name=name, why_not="; ".join(map(": ".join, environment.missing.items())))
        programs = Path(environment.program("python")).parent
    with tempfile.TemporaryDirectory(prefix="api-") as folder, _site(Path(folder), programs) as site:
        work = site.folder / "work"
        work.mkdir()
        command = peer.prepare(work, samples, site)
        before = site.batch_calls()
        site.s3_calls.clear()
        began = time.perf_counter()
        log = site.folder / "log"
        with log.open("wb") as sink:
            try:
                code = subprocess.run(
                    [shutil.which(command[0], path=f"{programs}:{os.defpath}") or command[0], *command[1:]],
                    cwd=work,
                    env=_environment(site.home, programs),
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=sink,
                    timeout=PATIENCE,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                code = -1
        seconds = time.perf_counter() - began
        asked, s3 = site.batch_calls() - before, dict(site.s3_calls)
        wrong = [sample for sample in range(samples) if _result(peer, sample, site) != b"sample\n"]
        if code or wrong:
            said = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            return Measured(name=name, why_not=f"it ended with {code} and {len(wrong)} wrong results: {said[:160]}")
    return Measured(name=name, batch=dict(sorted(asked.items())), s3=dict(sorted(s3.items())), seconds=seconds)


def _result(peer: Peer, sample: int, site: Site) -> bytes:
    place = peer.results.replace("{}", str(sample))
    if not place.startswith("s3:"):
        path = site.folder / "work" / place
        return path.read_bytes() if path.exists() else b""
    client = site.client("s3")
    try:
        data: bytes = client.get_object(Bucket=BUCKET, Key=place.removeprefix("s3:"))["Body"].read()
    except client.exceptions.NoSuchKey:
        return b""
    return data


def _environment(home: Path, programs: Path) -> dict[str, str]:
    """Of this process's variables peers see the path alone; their packages come first."""
    return {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(home), "LANG": "C.UTF-8"}


@contextmanager
def _site(folder: Path, programs: Path) -> Iterator[Site]:
    home, state = folder / "home", folder / "state"
    (home / ".aws").mkdir(parents=True)
    start = [sys.executable, "-m", "batch_pipeline.localbatch", "--state", str(state)]
    start += ["--vcpus", str(VCPUS), "--memory", str(MEMORY_MB), "--idle-seconds", str(PATIENCE)]
    variables = {**_environment(home, programs), "PYTHONPATH": str(_ROOT)}
    subprocess.run(start, env=variables, check=True, stdout=subprocess.DEVNULL)
    endpoint = read_endpoint(state)
    if endpoint is None:
        raise FileNotFoundError(state)
    try:
        with _everything_else() as (url, calls):
            (home / ".aws" / "credentials").write_text(
                f"[default]\naws_access_key_id = {endpoint.access_key}\naws_secret_access_key = {endpoint.secret_key}\n"
            )
            (home / ".aws" / "config").write_text(
                f"[default]\nregion = {REGION}\nservices = here\nendpoint_url = {url}\n"
                f"[services here]\nbatch =\n  endpoint_url = {endpoint.url}\nlogs =\n  endpoint_url = {endpoint.url}\n"
            )
            site = Site(folder=folder, home=home, batch=endpoint, s3_url=url, s3_calls=calls)
            site.client("s3").create_bucket(Bucket=BUCKET)
            order = [{"order": 1, "computeEnvironment": "embedded"}]
            site.client("batch").create_job_queue(jobQueueName=QUEUE, priority=1, computeEnvironmentOrder=order)
            yield site
    finally:
        stop(state)


@contextmanager
def _everything_else() -> Iterator[tuple[str, Counter[str]]]:
    """moto on loopback, and the methods of the requests for objects and buckets."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    calls: Counter[str] = Counter()
    application = DomainDispatcherApplication(create_backend_app)

    def counting(environ: dict[str, Any], start: Any) -> Any:
        if "/s3/" in environ.get("HTTP_AUTHORIZATION", ""):
            listing = environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"].strip("/").count("/") == 0
            calls["LIST" if listing else environ["REQUEST_METHOD"]] += 1
        return application(environ, start)

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:
            pass

    server = make_server("127.0.0.1", 0, counting, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", calls
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _ours(folder: Path, samples: int, site: Site) -> Sequence[str]:
    _put_sources(samples, site, "ours/SR/", ".txt")
    (folder / "samples.txt").write_text("".join(f"{sample}\n" for sample in range(samples)))
    (folder / "batch_pipeline.toml").write_text(
        f'[store]\nurl = "s3://{BUCKET}/ours"\n[backend]\nqueue = "{QUEUE}"\n[aws]\ns3_endpoint = "{site.s3_url}"\n'
        f'[embedded]\nstate = "{site.folder / "state"}"\n'
        f"vcpus = {VCPUS}\nmemory_mb = {MEMORY_MB}\nidle_seconds = {PATIENCE}\n"
    )
    pipeline = _ROOT / "benchmarks" / "copies" / "pipeline.py"
    return ["env", f"PYTHONPATH={_ROOT}", sys.executable, str(pipeline), "--sample-list-file", "samples.txt"]


def _luigi(folder: Path, samples: int, site: Site) -> Sequence[str]:
    for sample in range(samples):
        (folder / f"{sample}.0").write_text("sample\n")
    (folder / "copies.py").write_text(f"FOLDER, SAMPLES = {str(folder)!r}, {samples}\n{_LUIGI}")
    container = {
        "image": "none",
        "command": ["cp", "Ref::from", "Ref::to"],
        "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "256"}],
    }
    site.client("batch").register_job_definition(
        jobDefinitionName="copy", type="container", containerProperties=container
    )
    return ["python", "-m", "luigi", "--module", "copies", "All", "--local-scheduler", "--workers", "4"]


def _redun(folder: Path, samples: int, site: Site) -> Sequence[str]:
    _put_sources(samples, site, "", ".0")
    (folder / "copies.py").write_text(f"SAMPLES = {samples}\n{_REDUN}")
    (folder / ".redun").mkdir()
    (folder / ".redun" / "redun.ini").write_text(_REDUN_SETTINGS)
    return ["redun", "run", "copies.py", "main"]


def _snakemake(folder: Path, samples: int, site: Site) -> Sequence[str]:
    _put_sources(samples, site, "work/", ".0")
    (folder / "Snakefile").write_text(f"SAMPLES = {samples}\n{_SNAKEMAKE}")
    queue = f"arn:aws:batch:{REGION}:123456789012:job-queue/{QUEUE}"
    return [
        *("snakemake", "--jobs", "100", "--executor", "aws-batch", "--aws-batch-region", REGION),
        *("--aws-batch-job-queue", queue, "--aws-batch-job-role", ROLE, "--aws-batch-task-timeout", "600"),
        *("--default-storage-provider", "s3", "--default-storage-prefix", f"s3://{BUCKET}/work"),
        *("--storage-s3-endpoint-url", site.s3_url, "--storage-s3-region", REGION),
        *("--storage-s3-access-key", site.batch.access_key, "--storage-s3-secret-key", site.batch.secret_key),
        *("--container-image", "none", "--default-resources", "mem_mb=2048"),
    ]


def _put_sources(samples: int, site: Site, prefix: str, suffix: str) -> None:
    client = site.client("s3")
    for sample in range(samples):
        client.put_object(Bucket=BUCKET, Key=f"{prefix}{sample}{suffix}", Body=b"sample\n")


OURS = "batch_pipeline"
PEERS: Mapping[str, Peer] = {
    OURS: Peer(packages={}, prepare=_ours, results="s3:ours/results/three/{}/y"),
    "redun (Python tasks)": Peer(packages={"redun": "0.44.1"}, prepare=_redun, results="s3:{}.3"),
    "snakemake (aws-batch plugin)": Peer(
        packages={
            "snakemake": "9.27.1",
            "snakemake-executor-plugin-aws-batch": "0.2.1",
            "snakemake-storage-plugin-s3": "0.3.6",
        },
        prepare=_snakemake,
        results="s3:work/{}.3",
    ),
    "luigi (contrib.batch)": Peer(packages={"luigi": "3.8.1", "boto3": "1.44.5"}, prepare=_luigi, results="{}.3"),
}
