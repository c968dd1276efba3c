"""`deploy`: sets up what runs need, each part alone or all in their order; doing it again does nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from batch_pipeline.cli import complete
from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.options import CommandOption, SettingOption, common_options, json_option, yes_option
from batch_pipeline.cli.output import data, print_json, say
from batch_pipeline.deploy.cli.stack import ask, deploy_infrastructure
from batch_pipeline.report.tables import counted
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse, RunConflict

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.wire.store import Store


def deploy(call: CommandCall) -> int:
    """Sets up what runs need: infrastructure, images, definitions, code, references; one PART, or all that apply.

    Doing it again does nothing. `run` registers definitions and uploads code by itself. PART prune takes job
    definitions out of use that no job needs. NAMES are those of images.
    """
    part = call.options["part"]
    if call.options["names"] and part != "images":
        raise InvalidUse("Names go with images only: deploy images NAME….")
    if part != "infrastructure" and (call.options["diff"] or call.options["delete"]):
        raise InvalidUse("--diff and --delete are for the infrastructure: deploy infrastructure --diff.")
    chosen = [part] if part else [name for name in ALL if _applies(call, name)]
    results = {}
    for name in chosen:
        results[name] = PARTS[name](call)
    if call.json:
        print_json(results)
    problems = [problem for item in results.get("references", ()) for problem in item["problems"]]
    return CommandExit.FAILED if problems else CommandExit.DONE


def _applies(call: CommandCall, part: str) -> bool:
    """Whether a part has something to do for this pipeline on this backend."""
    on_aws = call.settings.backend.name == "aws"
    if part == "infrastructure":
        return on_aws
    if part == "images":
        from batch_pipeline.pipeline.images import FOLDER

        return call.settings.uses_containers and (call.graph.root / FOLDER).is_dir()
    return part != "references" or any(node.references for node in call.graph)


def _images(call: CommandCall) -> list[dict[str, Any]]:
    graph, settings = call.graph, call.settings
    if call.options["dry_run"]:
        return _stale_images(call)
    from batch_pipeline.deploy.images import deploy_images

    push = call.options["push"] if call.options["push"] is not None else settings.backend.name == "aws"
    built = deploy_images(
        graph, settings, say=say, only=call.options["names"], push=push, force=bool(call.options["force"])
    )
    # The next parts read the pins again.
    del call.graph
    for image in built:
        _data(call, f"image {image.name}: {'built, ' if image.built else ''}{image.image}")
    return [{"name": image.name, "image": image.image, "new": image.built} for image in built]


def _stale_images(call: CommandCall) -> list[dict[str, Any]]:
    from batch_pipeline.deploy.recipes import recipes
    from batch_pipeline.pipeline.images import read_pins

    pins = read_pins(call.graph.root)
    images = []
    for name, recipe in recipes(call.graph.root, call.settings.deploy.base_image, call.options["names"]).items():
        pin = pins.get(name)
        stale = pin is None or pin.inputs != recipe.inputs
        _data(call, f"image {name}: {'would be built' if stale else 'up to date'}")
        images.append({"name": name, "image": pin.image if pin else "", "new": stale})
    return images


def _definitions(call: CommandCall) -> list[dict[str, Any]]:
    from batch_pipeline.deploy.definitions import batch_clients, deploy_definitions, wanted_definitions

    dry_run = bool(call.options["dry_run"])
    definitions = deploy_definitions(
        wanted_definitions(call), call.settings, batch_clients(call.settings), dry_run=dry_run
    )
    for item in definitions:
        state = ("would be registered" if dry_run else "registered") if item.new else "there already"
        _data(call, f"definition {item.step}: {item.definition}, {state}")
    return [{"step": item.step, "definition": item.definition, "new": item.new} for item in definitions]


def _code(call: CommandCall) -> dict[str, Any]:
    from batch_pipeline.run.bundle import make_bundle, upload
    from batch_pipeline.wire.store import NotInStore

    bundle, store = make_bundle(call.graph), call.new_store
    try:
        store.head(bundle.key)
        new = False
    except NotInStore:
        new = True
    if new and not call.options["dry_run"]:
        upload(bundle, store)
    state = ("would be uploaded" if call.options["dry_run"] else "uploaded") if new else "there already"
    _data(call, f"code: {store.url_of(bundle.key)} ({len(bundle.data):,} bytes), {state}")
    return {"url": store.url_of(bundle.key), "sha256": bundle.sha256, "new": new}


def _references(call: CommandCall) -> list[dict[str, Any]]:
    from batch_pipeline.deploy.references import verify_references
    from batch_pipeline.pipeline.workflow import Graph

    builds = call.workflow.reference_builder is not None
    builder = Graph.of_reference(call.workflow).names[0] if builds else ""
    dry_run = bool(call.options["dry_run"])
    verified = verify_references(call.new_store, builder, dry_run=dry_run)
    for item in verified:
        size = f"{counted(item.files, 'file')}, {item.size_bytes:,} bytes"
        state = f"as {item.vouched_by} says" if item.vouched_by else "checksums are recorded now"
        if dry_run and not item.vouched_by:
            state = "checksums would be recorded"
        _data(call, f"reference {item.name}: {size}, {'WRONG' if item.problems else state}")
        for problem in item.problems:
            _data(call, f"  {problem}")
    if not verified:
        _data(call, f"No reference is in {call.new_store.url}.")
    return [{**asdict(item), "problems": list(item.problems)} for item in verified]


def _prune(call: CommandCall) -> list[str]:
    from batch_pipeline.deploy.definitions import batch_clients, names_in_use, retire, unused, wanted_definitions

    clients = batch_clients(call.settings)
    used = names_in_use(wanted_definitions(call)) | _live_names(call.new_store)
    unused_definitions = unused(clients, call.graph.name, used)
    for definition in unused_definitions:
        _data(call, f"unused: {definition}")
    if not unused_definitions:
        _data(call, f"Nothing to prune: every job definition of {call.graph.name} is in use.")
    elif not call.options["dry_run"]:
        ask(call, f"Take {counted(len(unused_definitions), 'job definition')} out of use?")
        retire(clients, unused_definitions)
        _data(call, f"Took {counted(len(unused_definitions), 'job definition')} out of use.")
    return unused_definitions


def _live_names(store: Store) -> frozenset[str]:
    """Names of the definitions of live runs. Raises RunConflict for a run that does not say."""
    from batch_pipeline.deploy.definitions import names_in_use
    from batch_pipeline.run.live import live_run_ids
    from batch_pipeline.wire.store import NotInStore

    names: frozenset[str] = frozenset()
    for run_id in live_run_ids(store):
        try:
            steps = store.get_json(layout.run_definitions(run_id))["steps"]
        except NotInStore as error:
            raise RunConflict(
                f"Run {run_id} is live and does not say which job definitions it uses. Prune when it has ended."
            ) from error
        names |= names_in_use({step: {k: v for k, v in item.items() if k != "pinned"} for step, item in steps.items()})
    return names


def _data(call: CommandCall, text: str) -> None:
    if not call.json:
        data(text)


PARTS: Final[dict[str, Callable[[CommandCall], Any]]] = {
    "infrastructure": deploy_infrastructure,
    "images": _images,
    "definitions": _definitions,
    "code": _code,
    "references": _references,
    "prune": _prune,
}
#: What `deploy` alone does, in this order.
ALL: Final = ("infrastructure", "images", "definitions", "code", "references")


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    params: list[click.Parameter] = [
        click.Argument(["part"], required=False, type=click.Choice(list(PARTS))),
        click.Argument(["names"], nargs=-1, shell_complete=complete.steps(workflow)),
        CommandOption("--dry-run", "Say what would be done, and do nothing.", is_flag=True),
        CommandOption("--diff", "Infrastructure: show what would change.", is_flag=True),
        CommandOption("--delete", "Infrastructure: delete the stack; its bucket stays.", is_flag=True),
        CommandOption("--parameter", "Infrastructure: a parameter; repeatable.", multiple=True, metavar="NAME=VALUE"),
        CommandOption("--write-settings", "Infrastructure: write batch_pipeline.toml if there is none.", is_flag=True),
        CommandOption("--push/--no-push", "Images: whether to push them; on AWS they are.", default=None),
        CommandOption("--force", "Images: build them though nothing changed.", is_flag=True),
        json_option(),
        yes_option(),
        *common_options(),
        SettingOption("--pipeline-name", "pipeline.name", "Name in definitions.", default_text="its class"),
        SettingOption("--stack", "deploy.stack", "Name of the CloudFormation stack."),
        SettingOption("--registry", "deploy.registry", "Where images are pushed.", default_text="the account's ECR"),
        SettingOption(
            "--builder",
            "deploy.builder",
            "What builds images.",
            type=click.Choice(["docker", "podman", "buildah"]),
            default_text="the first that is here",
        ),
    ]
    return command("deploy", workflow, argv, deploy, params)
