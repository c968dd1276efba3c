"""Builds the steps' images, pushes them, and pins them by digest in `dockerfiles/images.json`.

There is an image for each folder of `dockerfiles/`, named as the step that runs in it, all upon `base`, which this
package has where the pipeline has none; a step without a folder runs in `base` itself. An image is left alone when
nothing that it is made of has changed and the registry has it. Pins are written one by one: what is done when a build
fails is not done again.
"""

from __future__ import annotations

import base64
import os
import secrets
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from batch_pipeline import __version__
from batch_pipeline.backends.aws_clients import Clients, aws_maker
from batch_pipeline.backends.aws_errors import code_of
from batch_pipeline.config import Settings
from batch_pipeline.deploy.builders import Builder
from batch_pipeline.deploy.recipes import Recipe, recipes
from batch_pipeline.pipeline.images import BASE, FILE, Pin, pins_text, read_pins
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.wire.errors import BackendFailed, InvalidUse

#: Of images that stay on this machine.
LOCAL: Final = "localhost"


@dataclass(frozen=True, kw_only=True)
class BuiltImage:
    """One image as it is now."""

    #: The step, `reference`, or `base`.
    name: str
    #: By digest, as it is pinned.
    image: str
    #: The same by its tag, which follows from what it is made of.
    tag: str
    #: Whether it was built now; otherwise it was up to date.
    built: bool


class ImageRegistry(Protocol):
    """Where images go."""

    #: What stands before `/name:tag`.
    prefix: str

    def prepare(self, name: str) -> None:
        """Makes sure that an image of this name can be pushed. Raises BackendFailed."""

    def has(self, image: str) -> bool:
        """Whether it has an image, by digest."""

    def find(self, tag: str) -> str:
        """What it has under a tag, by digest; empty: nothing. A tag is a digest of what its image is made of."""

    def put(self, tag: str) -> str:
        """Puts an image there and returns its name by digest. Raises DeploymentFailed."""


class ThisMachine:
    """See `ImageRegistry`. Images stay where they were built."""

    def __init__(self, path: str, builder: Builder) -> None:
        self.prefix = f"{LOCAL}/{path}"
        self._builder = builder

    def prepare(self, name: str) -> None:
        """See `ImageRegistry.prepare`."""

    def has(self, image: str) -> bool:
        """See `ImageRegistry.has`."""
        return self._builder.is_here(image)

    def find(self, tag: str) -> str:
        """See `ImageRegistry.find`."""
        return self._builder.kept(tag) if self._builder.is_here(tag) else ""

    def put(self, tag: str) -> str:
        """See `ImageRegistry.put`."""
        return self._builder.kept(tag)


class AnyRegistry:
    """See `ImageRegistry`. Whoever deploys has logged in with the builder, if that is needed."""

    def __init__(self, prefix: str, builder: Builder) -> None:
        self.prefix = prefix
        self._builder = builder

    def prepare(self, name: str) -> None:
        """See `ImageRegistry.prepare`."""

    def has(self, image: str) -> bool:
        """See `ImageRegistry.has`."""
        return self._builder.can_pull(image)

    def find(self, tag: str) -> str:
        """See `ImageRegistry.find`."""
        return self._builder.pulled(tag)

    def put(self, tag: str) -> str:
        """See `ImageRegistry.put`."""
        return self._builder.push(tag)


class Ecr(AnyRegistry):
    """See `ImageRegistry`. AWS's own: repositories are made, and the builder is logged in for twelve hours.

    https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_GetAuthorizationToken.html
    """

    def __init__(self, prefix: str, path: str, clients: Clients, builder: Builder) -> None:
        """Parameters are the account's registry with the path, or empty, and the path below the account's registry."""
        self._clients = clients
        token = self._read("get_authorization_token")["authorizationData"][0]
        super().__init__(prefix or f"{token['proxyEndpoint'].removeprefix('https://')}/{path}", builder)
        user, _, password = base64.b64decode(token["authorizationToken"]).decode().partition(":")
        builder.log_in(self.prefix.partition("/")[0], user, password)

    def prepare(self, name: str) -> None:
        """See `ImageRegistry.prepare`. Tags cannot be changed: a tag is a digest of what the image is made of."""
        try:
            self._read(
                "create_repository",
                repositoryName=self._repository(f"{self.prefix}/{name}"),
                imageTagMutability="IMMUTABLE",
                imageScanningConfiguration={"scanOnPush": True},
            )
        except BackendFailed as error:
            if code_of(error) != "RepositoryAlreadyExistsException":
                raise

    def has(self, image: str) -> bool:
        """See `ImageRegistry.has`."""
        repository, _, digest = image.partition("@")
        return bool(self._digest(repository, imageDigest=digest))

    def find(self, tag: str) -> str:
        """See `ImageRegistry.find`."""
        repository, _, name = tag.rpartition(":")
        digest = self._digest(repository, imageTag=name)
        return f"{repository}@{digest}" if digest else ""

    def _digest(self, repository: str, **image_id: str) -> str:
        parameters = {"repositoryName": self._repository(repository), "imageIds": [image_id]}
        try:
            details = self._read("describe_images", **parameters).get("imageDetails", ())
        except BackendFailed as error:
            if code_of(error) in ("ImageNotFoundException", "RepositoryNotFoundException"):
                return ""
            raise
        return str(details[0]["imageDigest"]) if details else ""

    @staticmethod
    def _repository(image: str) -> str:
        return image.partition("/")[2]

    def _read(self, operation: str, **parameters: Any) -> dict[str, Any]:
        return self._clients.read(operation, service="ecr", **parameters)


def deploy_images(
    graph: Graph,
    settings: Settings,
    *,
    say: Callable[[str], None],
    only: Collection[str] = (),
    push: bool = True,
    force: bool = False,
    clients: Clients | None = None,
) -> Sequence[BuiltImage]:
    """Builds what is not up to date, pushes it, and pins it.

    Parameters
    ----------
    only: names of images, steps without an image of their own among them; all when empty. The base they need is built.
    push: whether to push; otherwise images stay on this machine, for the embedded Batch.
    force: builds them, though nothing has changed: for newer packages of Debian.

    Raises
    ------
    InvalidUse: there is no builder, or no such image.
    BackendFailed: AWS did not make a repository.
    DeploymentFailed: an image could not be built or pushed; those before it are pinned.
    """
    available = recipes(graph.root, settings.deploy.base_image, only)
    wanted = _wanted(available, graph.names, only)
    names = [recipe.name for recipe in wanted if force]
    with Builder(settings.deploy.builder, say=say) as builder:
        registry = _registry(settings, builder, push=push, clients=clients)
        work = _Work(root=graph.root, builder=builder, registry=registry, say=say, forced=frozenset(names))
        for recipe in wanted:
            work.do(recipe, available[BASE])
        return tuple(work.done.values())


def _wanted(available: Mapping[str, Recipe], steps: Sequence[str], only: Collection[str]) -> list[Recipe]:
    unknown = sorted(set(only) - set(available) - set(steps))
    if unknown:
        raise InvalidUse(f"There is no image or step {unknown[0]!r}; there are: {', '.join((*available, *steps))}.")
    names = {name if name in available else BASE for name in only} or set(available)
    return [recipe for name, recipe in available.items() if name in names]


def _registry(settings: Settings, builder: Builder, *, push: bool, clients: Clients | None) -> ImageRegistry:
    prefix, path = settings.deploy.registry.rstrip("/"), settings.deploy.stack.lower()
    if not push:
        return ThisMachine(path, builder)
    if not prefix or ".dkr.ecr." in prefix.partition("/")[0]:
        return Ecr(prefix, path, clients or Clients(aws_maker(settings.aws)), builder)
    return AnyRegistry(prefix, builder)


@dataclass(kw_only=True)
class _Work:
    """Makes one image after the other up to date, the base when it is needed."""

    root: Path
    builder: Builder
    registry: ImageRegistry
    say: Callable[[str], None]
    #: Names of images that are built though nothing has changed.
    forced: frozenset[str]
    done: dict[str, BuiltImage] = field(default_factory=dict)

    def do(self, recipe: Recipe, base: Recipe) -> None:
        """Makes an image up to date, unless that was done already."""
        if recipe.name in self.done:
            return
        tag = f"{self.registry.prefix}/{recipe.name}:{recipe.tag}"
        forced = recipe.name in self.forced
        if forced:
            # What stands under the tag stays, and another build of the same needs another tag.
            tag += f"-{secrets.token_hex(4)}"
        current = "" if forced else self._current_image(recipe, tag)
        if current:
            image = current
            self.say(f"{recipe.name}: up to date ({image})")
        else:
            if recipe is not base:
                self.do(base, base)
            self._build(recipe, tag, fresh=forced)
            image = self.registry.put(tag)
            self.say(f"{recipe.name}: {image}")
        self._pin(recipe, image)
        self.done[recipe.name] = BuiltImage(name=recipe.name, image=image, tag=tag, built=not current)

    def _current_image(self, recipe: Recipe, tag: str) -> str:
        """The image as it was built before, by whomever; empty: it must be built."""
        pin = read_pins(self.root).get(recipe.name)
        is_meant = pin and pin.inputs == recipe.inputs and pin.image.startswith(tag.rpartition(":")[0])
        return pin.image if pin and is_meant and self.registry.has(pin.image) else self.registry.find(tag)

    def _build(self, recipe: Recipe, tag: str, *, fresh: bool) -> None:
        arguments = dict(recipe.arguments)
        base = self.done.get(BASE)
        if base is not None:
            # The builder has one that was built now under its tag; by digest only the registry knows it.
            arguments["BASE_IMAGE"] = base.tag if base.built else base.image
        labels = {"org.opencontainers.image.version": __version__, "batch-pipeline.inputs": recipe.inputs}
        self.registry.prepare(recipe.name)
        self.say(f"{recipe.name}: building …")
        with tempfile.TemporaryDirectory(prefix="batch-pipeline-image-") as folder:
            recipe.fill(Path(folder))
            self.builder.build(Path(folder), tag, arguments, labels, fresh=fresh)

    def _pin(self, recipe: Recipe, image: str) -> None:
        pins, pin = read_pins(self.root), Pin(image=image, inputs=recipe.inputs)
        if pins.get(recipe.name) == pin:
            return
        part = self.root / f"{FILE}.{os.getpid()}"
        part.parent.mkdir(exist_ok=True)
        part.write_text(pins_text({**pins, recipe.name: pin}), encoding="utf-8")
        part.replace(self.root / FILE)
