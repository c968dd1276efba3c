"""Describes what deployment prepares for a run (`run --prepare`): images, job definitions and code, as they are needed.

Whether an image is there is asked of its repository or of this machine's container program, without building; so a
machine that builds no images can still find that there is nothing to build.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from batch_pipeline.backends.account import NotVisible
from batch_pipeline.backends.aws_clients import Clients
from batch_pipeline.backends.batch import BatchBackend
from batch_pipeline.backends.definitions import NO_IMAGE
from batch_pipeline.deploy.builders import Builder
from batch_pipeline.deploy.definitions import batch_clients, deploy_definitions, wanted_definitions
from batch_pipeline.deploy.images import LOCAL, deploy_images
from batch_pipeline.deploy.recipes import Recipe, recipes
from batch_pipeline.pipeline.images import BASE, read_pins
from batch_pipeline.pipeline.workflow import REFERENCE_TASK
from batch_pipeline.records.preparation import Preparation
from batch_pipeline.run.bundle import make_bundle, upload
from batch_pipeline.wire.store import NotInStore, Store

if TYPE_CHECKING:
    from batch_pipeline.cli.call import CommandCall


def deployments(call: CommandCall, store: Store, *, with_builder: bool) -> Sequence[Preparation]:
    """The images of the steps, the definitions and the code, in the order in which they are made.

    `with_builder`: the image of the step that builds references too. On the embedded Batch a run registers its
    definitions itself. Raises InvalidUse as `recipes` does.
    """
    clients = batch_clients(call.settings)
    images = _images(call, clients, with_builder=with_builder)
    names = tuple(image.name for image in images)
    on_aws = call.settings.backend.name == "aws" and not call.settings.pool.pilots
    return [*images, *([_definitions(call, clients, names)] if on_aws else []), _code(call, store)]


def _images(call: CommandCall, clients: Clients, *, with_builder: bool) -> list[Preparation]:
    """Of steps whose image is named neither by their class nor by a setting nor by their definition; the base first."""
    settings = call.settings
    if not settings.uses_containers or (settings.pool.pilots and settings.pool.image):
        return []
    built = {NO_IMAGE, *(pin.image for pin in read_pins(call.graph.root).values())}
    steps = [
        step
        for step, definition in wanted_definitions(call).items()
        if definition["containerProperties"]["image"] in built and (with_builder or step != REFERENCE_TASK)
    ]
    available = recipes(call.graph.root, settings.deploy.base_image)
    wanted = {step if step in available else BASE for step in steps}
    return [_image(call, clients, recipe, wanted) for name, recipe in available.items() if name in wanted]


def _image(call: CommandCall, clients: Clients, recipe: Recipe, wanted: set[str]) -> Preparation:
    on_aws = call.settings.backend.name == "aws"

    def build() -> None:
        from batch_pipeline.cli.output import say

        deploy_images(call.graph, call.settings, say=say, only=(recipe.name,), push=on_aws)
        # Whatever comes after reads the pins again.
        del call.graph

    return Preparation(
        name=f"image_{recipe.name}",
        title=f"the image {recipe.name}",
        missing=partial(_why_stale, call, clients, recipe),
        make=build,
        remedy=f"`deploy images {recipe.name}`.",
        needs=(f"image_{BASE}",) if BASE in wanted and recipe.name != BASE else (),
    )


def _why_stale(call: CommandCall, clients: Clients, recipe: Recipe) -> str:
    pin = read_pins(call.graph.root).get(recipe.name)
    if pin is None:
        return "it was never built"
    if pin.inputs != recipe.inputs:
        return "what it is made of has changed"
    if call.settings.backend.name != "aws":
        with Builder(call.settings.embedded.container, say=lambda _: None) as builder:
            return "" if builder.is_here(pin.image) else "it is not on this machine"
    if pin.image.startswith(f"{LOCAL}/"):
        return "it is on one machine only"
    try:
        there = BatchBackend(call.settings, clients=clients).account.has_image(pin.image)
    except NotVisible:
        # Another registry, or no right to look: the jobs say so if it is not there.
        return ""
    return "" if there else "it is not in its repository"


def _definitions(call: CommandCall, clients: Clients, images: Sequence[str]) -> Preparation:
    def missing() -> str:
        definitions = deploy_definitions(wanted_definitions(call), call.settings, clients, dry_run=True)
        new = [item.step for item in definitions if item.new]
        return f"not registered: {', '.join(new)}" if new else ""

    def register() -> None:
        deploy_definitions(wanted_definitions(call), call.settings, clients)

    return Preparation(
        name="definitions",
        title="the job definitions",
        missing=missing,
        make=register,
        remedy="`deploy definitions`.",
        needs=tuple(images),
    )


def _code(call: CommandCall, store: Store) -> Preparation:
    bundle = make_bundle(call.graph)

    def missing() -> str:
        try:
            store.head(bundle.key)
        except NotInStore:
            return "it is not uploaded"
        return ""

    def put() -> None:
        upload(bundle, store)

    return Preparation(name="code", title="the code", missing=missing, make=put, remedy="`deploy code`.")
