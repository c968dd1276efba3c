"""Images that are really built, and pushed to a real registry."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.backends.aws_clients import Clients
from batch_pipeline.config import load_settings
from batch_pipeline.deploy.images import BuiltImage, deploy_images
from batch_pipeline.pipeline.images import FILE, read_pins, with_pinned_images
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.wire.errors import DeploymentFailed
from examples.words import WordCount
from tests.containers.machine import BASE, Machine
from tests.containers.registry import ImageRegistry, serving

pytestmark = [pytest.mark.containers, pytest.mark.xdist_group("containers")]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[ImageRegistry]:
    with serving(tmp_path) as found:
        yield found


@dataclass(kw_only=True)
class Lab:
    """A pipeline's folder with Dockerfiles that are quickly built, and what was said about them."""

    graph: Graph
    prefix: str
    said: list[str] = field(default_factory=list)

    def deploy(self, *only: str, **options: Any) -> Sequence[BuiltImage]:
        self.said.clear()
        flags = {
            "deploy.registry": self.prefix,
            "deploy.builder": "podman",
            "deploy.base_image": BASE,
            "deploy.stack": "tests",
        }
        settings = load_settings(flags, environ={}, folder=self.graph.root)
        return deploy_images(self.graph, settings, say=self.said.append, only=only, **options)

    def built(self, *only: str, **options: Any) -> list[str]:
        return [image.name for image in self.deploy(*only, **options) if image.built]

    def change(self, name: str, line: str) -> None:
        file = self.graph.root / "dockerfiles" / name / "Dockerfile"
        file.write_text(f"{file.read_text()}\n{line}\n")

    def images(self) -> dict[str, str]:
        return {name: pin.image for name, pin in read_pins(self.graph.root).items()}


def lab_in(folder: Path, prefix: str) -> Lab:
    base = folder / "dockerfiles" / "base"
    base.mkdir(parents=True)
    # Without Python: what is asked here is not what is in it.
    base.joinpath("Dockerfile").write_text(
        "ARG BASE\nFROM ${BASE}\nCOPY packages batch_pipeline /opt/batch_pipeline/\n"
    )
    for step in ("lower", "words"):
        (folder / "dockerfiles" / step).mkdir()
        (folder / "dockerfiles" / step / "Dockerfile").write_text(
            f"ARG BASE_IMAGE\nFROM ${{BASE_IMAGE}}\nENV S={step}\n"
        )
    graph = Graph.of(WordCount)
    return Lab(graph=Graph(name=graph.name, root=folder, nodes=graph.nodes), prefix=prefix)


@pytest.fixture
def lab(engine: Machine, registry: ImageRegistry, tmp_path: Path) -> Iterator[Lab]:
    lab = lab_in(tmp_path / "lab", f"{registry.host}/lab")
    yield lab
    listed = engine.podman("images", "--quiet", "--filter", f"reference={registry.host}/*/*").split()
    engine.podman("rmi", "--force", *dict.fromkeys(listed)) if listed else None


def test_images_are_built_pushed_and_pinned_by_what_the_registry_has(lab: Lab, registry: ImageRegistry) -> None:
    assert lab.built() == ["base", "lower", "words"]
    images = lab.images()
    assert sorted(images) == ["base", "lower", "words"]
    for name, image in images.items():
        assert image.startswith(f"{registry.host}/lab/{name}@sha256:")
        assert registry.manifest(image)["config"]["digest"]
    nodes = {node.name: node.image for node in with_pinned_images(lab.graph)}
    assert nodes["lower"] == images["lower"]
    # Steps without a folder run in the base.
    assert {nodes[name] for name in nodes if name not in ("lower", "words")} == {images["base"]}


def test_what_is_up_to_date_is_left_alone_and_what_changed_is_built_alone(lab: Lab, registry: ImageRegistry) -> None:
    lab.built()
    before = lab.images()
    assert lab.built() == []
    lab.change("words", "ENV TOOL=2")
    assert lab.built() == ["words"]
    assert {name for name, image in lab.images().items() if image != before[name]} == {"words"}
    lab.change("base", "ENV LEVEL=2")
    assert lab.built() == ["base", "lower", "words"]
    assert len(registry.tags("lab/words")) == 3


def test_only_some_are_built_and_the_base_that_they_need(lab: Lab) -> None:
    assert lab.built("words") == ["base", "words"]
    assert sorted(lab.images()) == ["base", "words"]
    assert lab.built() == ["lower"]


def test_an_image_that_somebody_else_pushed_is_taken(lab: Lab, engine: Machine, tmp_path: Path) -> None:
    lab.built()
    before = lab.images()
    (lab.graph.root / FILE).unlink()
    assert lab.built() == []
    assert lab.images() == before
    # As on a machine that never built it.
    engine.podman("rmi", "--force", *before.values())
    (lab.graph.root / FILE).unlink()
    assert lab.built() == []
    assert lab.images() == before


def test_an_image_that_the_registry_lost_is_built_again(lab: Lab, tmp_path: Path) -> None:
    lab.built()
    lab.prefix += "-moved"
    assert lab.built() == ["base", "lower", "words"]
    assert all("/lab-moved/" in image for image in lab.images().values())


def test_building_by_force_makes_another_tag(lab: Lab, registry: ImageRegistry) -> None:
    lab.built()
    assert lab.built("words", force=True) == ["words"]
    assert len(registry.tags("lab/words")) == 2
    assert lab.built() == []


def test_images_stay_here_when_nobody_wants_them_pushed(lab: Lab, registry: ImageRegistry, engine: Machine) -> None:
    assert lab.built(push=False) == ["base", "lower", "words"]
    assert registry.tags("lab/base") == []
    image = lab.images()["lower"]
    assert image.startswith("localhost/tests/lower@sha256:")
    assert engine.podman("run", "--rm", "--pull", "never", image, "printenv", "S") == "lower"
    assert lab.built(push=False) == []
    engine.podman("rmi", "--force", *lab.images().values())


def test_a_failed_build_tells_its_last_words_and_leaves_what_was_done(lab: Lab) -> None:
    lab.change("words", "RUN echo the tool is not to be had >&2 && exit 7")
    with pytest.raises(DeploymentFailed, match=r"could not build .*/words:"):
        lab.deploy()
    assert any("the tool is not to be had" in line for line in lab.said)
    assert sorted(lab.images()) == ["base", "lower"]


def test_the_accounts_own_registry_is_made_ready_and_told_the_token_alone(engine: Machine, tmp_path: Path) -> None:
    """AWS's side is played, the registry that asks for the token's password is real."""
    asked: list[tuple[str, dict[str, Any]]] = []
    with serving(tmp_path, secret="AWS:the-token") as registry:

        class Played(Clients):
            def read(self, operation: str, /, *, service: str = "batch", **parameters: Any) -> dict[str, Any]:
                assert service == "ecr"
                asked.append((operation, parameters))
                if operation == "get_authorization_token":
                    token = base64.b64encode(b"AWS:the-token").decode()
                    proxy = f"https://{registry.host}"
                    return {"authorizationData": [{"authorizationToken": token, "proxyEndpoint": proxy}]}
                return {}

        lab = lab_in(tmp_path / "lab", "")
        clients = Played(lambda: pytest.fail("no client is made"))
        images = lab.deploy("lower", clients=clients)
        assert [image.name for image in images] == ["base", "lower"]
        assert registry.tags("tests/lower")
        made = [parameters for operation, parameters in asked if operation == "create_repository"]
        assert [each["repositoryName"] for each in made] == ["tests/base", "tests/lower"]
        assert {each["imageTagMutability"] for each in made} == {"IMMUTABLE"}
        assert not any("the-token" in line for line in lab.said)
        engine.podman("rmi", "--force", *(image.tag for image in images))
    # Nothing of the login is left behind.
    assert "the-token" not in engine.podman("login", "--get-login", registry.host, code=None)
