"""The metadata of a run as an RO-Crate: Workflow Run Crate, in JSON-LD. Pure.

RO-Crate 1.1 (https://www.researchobject.org/ro-crate/specification/1.1/) with the profiles Process Run Crate, Workflow
Run Crate 0.5 (https://www.researchobject.org/workflow-run-crate/profiles/workflow_run_crate/) and Workflow RO-Crate
1.0. One action, the run: its instrument is the file that wires the steps, its agent whoever ran it, its objects the
samples' own files and the parameters, its results the files that the receipts vouch for.

(Longer than most modules: the entities name each other, and are read together.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from batch_pipeline.records.record import RunRecord
from batch_pipeline.wire.receipt import FileRecord, Receipt

METADATA: Final = "ro-crate-metadata.json"
README: Final = "README.md"
DRIVER_LOG: Final = "run/driver.log"
_TERMS: Final = "https://w3id.org/ro/terms/workflow-run#"
#: The terms of the profile that RO-Crate's own context lacks stand in the crate: it needs no other document.
CONTEXT: Final = (
    "https://w3id.org/ro/crate/1.1/context",
    {name: f"{_TERMS}{name}" for name in ("ContainerImage", "containerImage", "registry", "sha256", "tag")},
)
PROFILES: Final = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
#: A crate must name a licence, and a run knows none.
NO_LICENCE: Final = "No licence was stated for these data. Ask those who made them."
_PARAMETER: Final = "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"
_WORKFLOW: Final = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
_ACTION: Final = "#run"
#: Path in the crate -> the entity that the file is about.
_ABOUT: Final = {README: "./", DRIVER_LOG: _ACTION}
_KINDS: Final = {bool: "Boolean", int: "Integer", float: "Float"}
_FORMATS: Final = {
    ".json": "application/json",
    ".tsv": "text/tab-separated-values",
    ".txt": "text/plain",
    ".log": "text/plain",
    ".patch": "text/x-diff",
    ".md": "text/markdown",
    ".py": "text/x-python",
    ".zip": "application/zip",
    ".gz": "application/gzip",
    ".html": "text/html",
}

Entity = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file of the crate."""

    #: Path in the crate, or URL of what stays where it is.
    place: str
    description: str
    size_bytes: int | None = None
    sha256: str = ""


def metadata(
    run: RunRecord, receipts: Sequence[Receipt], members: Sequence[Member], place_of: Mapping[str, str], main: str
) -> Entity:
    """The whole document. `place_of` tells where the crate has a key of the store, `main` where the workflow."""
    results = [(receipt, output) for receipt in receipts for output in receipt.outputs if output.key in place_of]
    sources = _sources(receipts, place_of)
    parameters = list(_parameters(run))
    data = [*_files(members, main), *_results(results, place_of), *_source_files(sources)]
    ports = [*_ports(results, sources, place_of), *(formal for formal, _ in parameters)]
    values = [value for _, value in parameters]
    images = list(_images(run))
    graph: list[Entity] = [
        _descriptor(),
        _root(run, data, main),
        *_profiles(),
        _workflow(run, main, ports),
        _language(),
        _agent(run),
        _engine(run),
        _action(run, main, results, sources, values, images, place_of),
        {"@id": "#licence", "@type": "CreativeWork", "name": "No licence", "description": NO_LICENCE},
        *data,
        *ports,
        *values,
        *images,
    ]
    return {"@context": list(CONTEXT), "@graph": [_plain(entity) for entity in graph]}


def _plain(entity: Entity) -> Entity:
    """Without lists of one, as RO-Crate wants its JSON-LD."""
    return {
        name: value[0] if isinstance(value, list) and len(value) == 1 else value
        for name, value in entity.items()
        if value != []
    }


def _descriptor() -> Entity:
    conforms = ["https://w3id.org/ro/crate/1.1", "https://w3id.org/workflowhub/workflow-ro-crate/1.0"]
    return {"@id": METADATA, "@type": "CreativeWork", "about": _to("./"), "conformsTo": list(map(_to, conforms))}


def _root(run: RunRecord, data: Sequence[Entity], main: str) -> Entity:
    return {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Run {run.run_id} of {run.pipeline_name or run.pipeline}",
        "description": run.description or f"What {run.pipeline} made of {run.samples:,} samples, and how.",
        "datePublished": run.ended_at or run.started_at,
        "author": _to("#agent"),
        "license": _to("#licence"),
        "conformsTo": list(map(_to, PROFILES)),
        "mainEntity": _to(main),
        "mentions": [_to(_ACTION)],
        "hasPart": [_to(main), *(_to(entity["@id"]) for entity in data)],
    }


def _profiles() -> Iterator[Entity]:
    for url, (name, version) in PROFILES.items():
        yield {"@id": url, "@type": "CreativeWork", "name": name, "version": version}


def _workflow(run: RunRecord, main: str, ports: Sequence[Entity]) -> Entity:
    outputs = [port["@id"] for port in ports if port["@id"].startswith("#output-")]
    entity: Entity = {
        "@id": main,
        "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
        "conformsTo": _to(_WORKFLOW),
        "name": run.pipeline or "workflow",
        "description": f"Steps: {', '.join(run.step_digests or run.cells)}. Digest of the pipeline: "
        f"{run.pipeline_digest or 'unknown'}.",
        "programmingLanguage": _to("#python"),
        "encodingFormat": _format(main),
        "creator": _to("#agent"),
        "input": [_to(port["@id"]) for port in ports if port["@id"] not in outputs],
        "output": list(map(_to, outputs)),
    }
    if run.repository.startswith("http"):
        entity |= {"codeRepository": run.repository, "url": run.repository}
    if run.commit:
        entity["version"] = f"{run.commit}{' with changes' if run.dirty else ''}"
    return entity


def _language() -> Entity:
    return {"@id": "#python", "@type": "ComputerLanguage", "name": "Python", "url": _to("https://www.python.org/")}


def _agent(run: RunRecord) -> Entity:
    return {"@id": "#agent", "@type": "Person", "name": run.user, "identifier": run.identity or run.user}


def _engine(run: RunRecord) -> Entity:
    version = run.versions.get("batch_pipeline", "unknown")
    return {
        "@id": "#batch_pipeline",
        "@type": "SoftwareApplication",
        "name": "batch_pipeline",
        "softwareVersion": version,
        "description": " ".join(f"{name} {version}" for name, version in run.versions.items()),
        "url": "https://pypi.org/project/batch-pipeline/",
    }


def _action(
    run: RunRecord,
    main: str,
    results: Sequence[tuple[Receipt, FileRecord]],
    sources: Mapping[str, FileRecord],
    values: Sequence[Entity],
    images: Sequence[Entity],
    place_of: Mapping[str, str],
) -> Entity:
    ended = "FailedActionStatus" if run.ended and not run.ok else "CompletedActionStatus"
    entity: Entity = {
        "@id": _ACTION,
        "@type": "CreateAction",
        "name": f"Run {run.run_id}",
        "description": " ".join(run.argv) or run.description or run.pipeline,
        "instrument": _to(main),
        "agent": _to("#agent"),
        "startTime": _moment(run.started_at),
        "endTime": _moment(run.ended_at or max((receipt.stopped_at for receipt, _ in results), default=run.started_at)),
        "actionStatus": f"http://schema.org/{ended}",
        "object": [*map(_to, sources), *(_to(value["@id"]) for value in values)],
        "result": [_to(place_of[output.key]) for _, output in results],
    }
    if run.problem:
        entity["error"] = run.problem
    if images:
        entity["containerImage"] = [_to(image["@id"]) for image in images]
    return entity


def _files(members: Sequence[Member], main: str) -> Iterator[Entity]:
    for member in members:
        if member.place != main:
            about = {"about": _to(_ABOUT[member.place])} if member.place in _ABOUT else {}
            yield _file(member.place, member.description, member.size_bytes, member.sha256) | about


def _results(results: Sequence[tuple[Receipt, FileRecord]], place_of: Mapping[str, str]) -> Iterator[Entity]:
    for receipt, output in results:
        tools = ", ".join(f"{tool} {version}" for tool, version in receipt.versions.items())
        description = f"{output.port} of {receipt.step}, sample {receipt.sample}{f', made by {tools}' if tools else ''}"
        entity = _file(place_of[output.key], description, output.size_bytes, output.sha256)
        yield entity | {"exampleOfWork": _to(_output(receipt, output)), "dateModified": receipt.stopped_at}


def _source_files(sources: Mapping[str, FileRecord]) -> Iterator[Entity]:
    for place, file in sources.items():
        entity = _file(place, f"{file.port}: read, and not part of the crate", file.size_bytes, file.sha256)
        entity |= {"exampleOfWork": _to(f"#input-{file.port}")}
        yield entity | ({"identifier": f"ETag {file.etag}"} if file.etag else {})


def _sources(receipts: Sequence[Receipt], place_of: Mapping[str, str]) -> dict[str, FileRecord]:
    """URL -> file, of what no cell of these made."""
    made = {output.key for receipt in receipts for output in receipt.outputs}
    return {
        place_of.get(file.key, file.key): file
        for receipt in receipts
        for file in receipt.inputs
        if file.key not in made
    }


def _ports(
    results: Sequence[tuple[Receipt, FileRecord]], sources: Mapping[str, FileRecord], place_of: Mapping[str, str]
) -> Iterator[Entity]:
    made: dict[str, list[str]] = {}
    for receipt, output in results:
        made.setdefault(_output(receipt, output), []).append(place_of[output.key])
    read: dict[str, list[str]] = {}
    for place, file in sources.items():
        read.setdefault(f"#input-{file.port}", []).append(place)
    for name, places in {**read, **made}.items():
        yield _formal(name, name.partition("-")[2], "File", places)


def _parameters(run: RunRecord) -> Iterator[tuple[Entity, Entity]]:
    """Each parameter of each step: what it is, and its value in this run."""
    for step, params in run.params.items():
        for name, value in params.items():
            formal, of_run = f"#parameter-{step}.{name}", f"#value-{step}.{name}"
            value_entity = {"@id": of_run, "@type": "PropertyValue", "name": f"{step}.{name}", "value": value}
            kind = _KINDS.get(type(value), "Text")
            yield _formal(formal, f"{step}.{name}", kind, [of_run]), value_entity | {"exampleOfWork": _to(formal)}


def _formal(name: str, words: str, kind: str, examples: Sequence[str]) -> Entity:
    return {
        "@id": name,
        "@type": "FormalParameter",
        "conformsTo": _to(_PARAMETER),
        "name": words,
        "description": f"{words} of the workflow",
        "additionalType": kind,
        "valueRequired": True,
        "workExample": list(map(_to, examples)),
    }


def _images(run: RunRecord) -> Iterator[Entity]:
    for image in dict.fromkeys(filter(None, run.images.values())):
        name, _, digest = image.partition("@sha256:")
        registry, _, rest = name.partition("/")
        path, _, tag = rest.partition(":")
        entity: Entity = {
            "@id": f"#image-{digest or name}",
            "@type": "ContainerImage",
            "additionalType": _to(f"{_TERMS}DockerImage"),
            "registry": registry,
            "name": path or registry,
        }
        yield entity | ({"sha256": digest} if digest else {}) | ({"tag": tag} if tag else {})


def _file(place: str, description: str, size_bytes: int | None, sha256: str) -> Entity:
    entity: Entity = {
        "@id": place,
        "@type": "File",
        "name": place.rpartition("/")[2],
        "description": description,
        "encodingFormat": _format(place),
    }
    if size_bytes is not None:
        entity["contentSize"] = str(size_bytes)
    return entity | ({"sha256": sha256} if sha256 else {})


def _moment(text: str) -> str:
    """A record's time as the profile writes it: an offset instead of a Z."""
    return text.replace("Z", "+00:00")


def _format(place: str) -> str:
    return _FORMATS.get(place[place.rfind(".") :], "application/octet-stream")


def _output(receipt: Receipt, output: FileRecord) -> str:
    return f"#output-{receipt.step}.{output.port}"


def _to(identifier: str) -> Entity:
    return {"@id": identifier}
