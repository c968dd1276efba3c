"""The images of drivers, really built, and drivers that run in them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from batch_pipeline.config import load_settings
from batch_pipeline.deploy.images import deploy_images
from batch_pipeline.localbatch.client import stop
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.wire import layout
from examples.words import WordCount
from tests.access.site import Site, read
from tests.container.bench import RUN, Bench
from tests.containers.machine import BASE, Machine
from tests.containers.registry import serving

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.xdist_group("containers")]

ROOT = Path(__file__).resolve().parents[2]


class Workshop:
    """A repository with the examples, and images to run them in."""

    def __init__(self, root: Path, machine: Machine) -> None:
        self.machine = machine
        self.bench = Bench(root)
        examples = {
            f"examples/{path.relative_to(ROOT / 'examples')}": path.read_text()
            for path in (ROOT / "examples").rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
        self.bench.code.commit(examples)
        for path in (self.bench.code.work / "examples" / "drivers").iterdir():
            path.chmod(0o755)
        self.bench.commit = self.bench.code.commit({})
        self.bench.code.push()

    def image(self, name: str, registry: str = "") -> str:
        """Built from this repository's Dockerfile, unless it is there; pushed if told where."""
        root = self.bench.root / "lab"
        shutil.copytree(ROOT / "dockerfiles", root / "dockerfiles", dirs_exist_ok=True)
        (root / "dockerfiles" / "images.json").unlink(missing_ok=True)
        graph = Graph.of(WordCount)
        flags = {"deploy.builder": "podman", "deploy.base_image": BASE, "deploy.stack": "tests"}
        flags |= {"deploy.registry": f"{registry}/lab"} if registry else {}
        built = deploy_images(
            Graph(name=graph.name, root=root, nodes=graph.nodes),
            load_settings(flags, environ={}, folder=root),
            say=lambda sentence: None,
            only=[name],
            push=bool(registry),
        )
        return next(image.image for image in built if image.name == name)

    def forget(self, host: str) -> None:
        """Removes the images of a registry that is gone soon."""
        listed = self.machine.podman("images", "--quiet", "--filter", f"reference={host}/*/*").split()
        self.machine.podman("rmi", "--force", *dict.fromkeys(listed), code=None)

    def run(self, image: str, *script: str, code: int = 0) -> str:
        """A driver in a container, with the test's folder where it is; it has our rights."""
        order = self.bench.order(entry=script[0], script=script)
        environment = self.bench.environment(order)
        for name in ("PATH", "HOME", "BATCH_PIPELINE_SCRATCH"):
            del environment[name]
        options = [f"--env={name}={value}" for name, value in environment.items()]
        place = f"--volume={self.bench.root}:{self.bench.root}"
        return self.machine.podman("run", "--rm", "--user=0:0", place, *options, image, code=code)


@pytest.fixture
def workshop(engine: Machine, tmp_path: Path) -> Workshop:
    return Workshop(tmp_path, engine)


def test_a_driver_runs_scripts_and_pipelines_in_its_image(workshop: Workshop) -> None:
    image = workshop.image("driver")
    out = workshop.run(image, "examples/drivers/lines.sh")
    assert f"commit={workshop.bench.commit}" in out
    assert "carroll\t" in (workshop.bench.root / "store" / "cohort-7" / "lines.tsv").read_text()
    assert workshop.bench.end()["exit_code"] == 0
    told = workshop.machine.podman("run", "--rm", "--entrypoint=python3", image, "-m", "batch_pipeline", "--version")
    assert told.startswith("batch_pipeline ")
    planned = workshop.machine.podman(
        *("run", "--rm", "--entrypoint=python3", f"--volume={ROOT / 'examples'}:/examples:ro", image),
        *("/examples/words.py", "plan", "--sample-list-file", "/examples/texts.txt"),
        *("--sources", "/examples/texts", "--store", "/scratch", "--json"),
    )
    assert '"jobs"' in planned


def test_a_tag_of_a_real_registry_becomes_the_digest_that_runs(workshop: Workshop, tmp_path: Path) -> None:
    """The whole way: `submit`, the gate, the registry's word, the embedded Batch with podman, the record."""
    for name in ("registry", "site"):
        (tmp_path / name).mkdir()
    with serving(tmp_path / "registry") as registry:
        pushed = workshop.image("driver", registry.host)
        repository, _, digest = pushed.partition("@")
        site = Site(tmp_path / "site", tmp_path / "state")
        site.container = "podman"
        policy = (site.root / "policies" / "texts.toml").read_text()
        policy = policy.replace("registry.example.org/driver", repository).replace("without_image = true\n", "")
        site.policy(policy.replace('digests = ["sha256:"]', f'digests = ["{digest[:20]}"]'))
        site.examples()
        tag = registry.tags(repository.partition("/")[2])[0]
        try:
            ended = site.submit("--wait", "--image", f"{repository}:{tag}", "examples/drivers/lines.sh", output="lines")
            other = site.submit("--image", f"{repository}:none", "examples/drivers/lines.sh", output="lines")
        finally:
            stop(site.state)
            workshop.forget(registry.host)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (site.main / "lines" / "lines.tsv").read_text().count("\n") == 3
    (run,) = site.main.glob("runs/*")
    assert read(run / "run.json")["images"] == {"driver": pushed}
    assert other.returncode == 2
    assert "no such image" in other.stderr


def test_a_script_in_r_runs_in_its_image(workshop: Workshop) -> None:
    workshop.run(workshop.image("r"), "examples/drivers/lengths.R")
    rows = (workshop.bench.root / "store" / "cohort-7" / "lengths.tsv").read_text().splitlines()
    assert rows[0] == "length\twords"
    counted = sum(int(row.split("\t")[1]) for row in rows[1:])
    texts = " ".join(path.read_text().lower() for path in (ROOT / "examples" / "texts").glob("*.txt"))
    assert counted == len(re.findall("[a-z]+", texts))
    assert workshop.bench.end()["exit_code"] == 0
    assert workshop.bench.store.get(layout.log(RUN, "driver", layout.COHORT, 1))
