"""A run as an RO-Crate: whole, true to its receipts, and what the profile's own validator wants."""

from __future__ import annotations

import hashlib
import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from batch_pipeline.provenance.crate import export
from batch_pipeline.records.record import RunRecord, read_record
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse, StoreFailed
from batch_pipeline.wire.store import Store
from tests.provenance.made import Maker
from tests.run.small import drive, request_of

ROOT = Path(__file__).resolve().parents[2]
#: Made by `scripts/install.sh crates`: the validator needs other versions of packages than we do.
VALIDATOR = ROOT / ".venv" / "crates"
PROFILE = "workflow-run-crate-0.5"


@pytest.fixture
def run(store: Store) -> RunRecord:
    maker = Maker(store)
    outcome = drive(request_of(store, argv=("run",), params={"depth": 2}), maker)
    run_id = outcome.run_ids[0]
    record = store.get_json(layout.run_record(run_id))
    image = "registry.example.org/lab/upper@sha256:" + "ab" * 32
    changed = record | {"images": {"upper": image, "count": image}, "repository": "https://example.org/lab/code"}
    store.put_json(layout.run_record(run_id), changed)
    return read_record(store, run_id)


def graph_of(folder: Path) -> dict[str, Any]:
    document = json.loads((folder / "ro-crate-metadata.json").read_text())
    assert document["@context"][0] == "https://w3id.org/ro/crate/1.1/context"
    entities = {entity["@id"]: entity for entity in document["@graph"]}
    assert len(entities) == len(document["@graph"]), "two entities have one @id"
    return entities


def many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def ids(value: Any) -> list[str]:
    return [one["@id"] for one in many(value)]


def test_every_file_is_described_as_it_is_and_nothing_else(store: Store, run: RunRecord, tmp_path: Path) -> None:
    told = export(store, run, str(tmp_path / "crate"))

    entities = graph_of(tmp_path / "crate")
    there = {path.relative_to(tmp_path / "crate").as_posix() for path in (tmp_path / "crate").rglob("*.*")}
    there -= {"ro-crate-metadata.json"}
    described = {
        unquote(name) for name, entity in entities.items() if "File" in many(entity["@type"]) and "://" not in name
    }
    files = {name for name in there if (tmp_path / "crate" / name).is_file()}
    outside = {name for name in described if name.startswith(("SR/", "references/"))}
    assert described - outside == files
    assert told.files == len(files) + 1
    for name in files & set(entities):
        entity = entities[name]
        data = (tmp_path / "crate" / name).read_bytes()
        if "sha256" in entity:
            assert entity["sha256"] == hashlib.sha256(data).hexdigest()
            assert entity["contentSize"] == str(len(data))


def test_the_action_names_workflow_agent_objects_and_results(store: Store, run: RunRecord, tmp_path: Path) -> None:
    export(store, run, str(tmp_path / "crate"))
    entities = graph_of(tmp_path / "crate")
    root, action = entities["./"], entities["#run"]

    assert action["@type"] == "CreateAction"
    assert ids(root["mainEntity"]) == ids(action["instrument"]) == ["workflow/small.py"]
    assert entities["workflow/small.py"]["@type"] == ["File", "SoftwareSourceCode", "ComputationalWorkflow"]
    assert "https://w3id.org/ro/wfrun/workflow/0.5" in ids(root["conformsTo"])
    assert entities[ids(action["agent"])[0]]["name"] == run.user
    results = {f"results/upper/{s}/{s}.txt" for s in ("ann", "bob", "cid")}
    assert results < set(ids(action["result"]))
    assert len(ids(action["result"])) == 7
    assert store.url_of("SR/ann.txt") in ids(action["object"])
    assert entities["#value-count.depth"]["value"] == 2
    assert "#value-count.depth" in ids(action["object"])
    (image,) = ids(action["containerImage"])
    assert entities[image]["sha256"] == "ab" * 32
    assert (entities[image]["registry"], entities[image]["name"]) == ("registry.example.org", "lab/upper")


def test_the_log_of_all_drivers_is_a_file_about_the_run(store: Store, run: RunRecord, tmp_path: Path) -> None:
    earlier = f"2026-11-21T16:30:00.000Z INFO    {run.run_id} run.lock: lock acquired number=1"
    store.put(layout.driver_log(run.run_id, "20261121T163000.000000Z-another"), f"{earlier}\n".encode())
    export(store, run, str(tmp_path / "crate"))
    entities = graph_of(tmp_path / "crate")
    log = entities["run/driver.log"]
    assert (log["@type"], log["encodingFormat"]) == ("File", "text/plain")
    assert ids(log["about"]) == ["#run"]
    assert "run/driver.log" in ids(entities["./"]["hasPart"])
    lines = (tmp_path / "crate" / "run" / "driver.log").read_text().splitlines()
    assert lines[0] == earlier
    assert any("run.submit: submitted job=upper" in line for line in lines[1:])


def test_a_run_whose_drivers_left_no_log_has_none_in_its_crate(store: Store, run: RunRecord, tmp_path: Path) -> None:
    store.delete(list(store.keys(layout.driver_log(run.run_id))))
    export(store, run, str(tmp_path / "crate"))
    assert "run/driver.log" not in graph_of(tmp_path / "crate")
    assert not (tmp_path / "crate" / "run" / "driver.log").exists()


def test_everything_that_is_named_is_described(store: Store, run: RunRecord, tmp_path: Path) -> None:
    """Every reference within the crate leads to an entity; parameters and their examples name each other."""
    export(store, run, str(tmp_path / "crate"))
    entities = graph_of(tmp_path / "crate")
    outside = ("https://w3id.org/", "https://bioschemas.org/", "https://www.python.org/")
    for entity in entities.values():
        for value in entity.values():
            for one in many(value):
                if isinstance(one, dict) and "@id" in one and not one["@id"].startswith(outside):
                    assert one["@id"] in entities
    for name, entity in entities.items():
        if entity["@type"] == "FormalParameter":
            for example in ids(entity["workExample"]):
                assert name in ids(entities[example]["exampleOfWork"])


def test_without_results_their_urls_are_named(store: Store, run: RunRecord, tmp_path: Path) -> None:
    export(store, run, str(tmp_path / "crate"), results=False)
    entities = graph_of(tmp_path / "crate")
    assert not (tmp_path / "crate" / "results").exists()
    assert store.url_of("results/upper/ann/ann.txt") in ids(entities["#run"]["result"])
    assert entities[store.url_of("results/upper/ann/ann.txt")]["sha256"]


def test_a_zip_has_the_same(store: Store, run: RunRecord, tmp_path: Path) -> None:
    export(store, run, str(tmp_path / "crate"))
    export(store, run, str(tmp_path / "crate.zip"))
    with zipfile.ZipFile(tmp_path / "crate.zip") as archive:
        assert archive.testzip() is None
        for name in archive.namelist():
            assert archive.read(name) == (tmp_path / "crate" / name).read_bytes()
        assert len(archive.namelist()) == sum(path.is_file() for path in (tmp_path / "crate").rglob("*"))


def test_a_place_that_is_taken_is_left_alone(store: Store, run: RunRecord, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    for name in ("x.zip", "full", "full/mine"):
        with pytest.raises(InvalidUse, match="there already"):
            export(store, run, str(tmp_path / name))
    assert (tmp_path / "x.zip").read_text() == (tmp_path / "full" / "mine").read_text() == "mine"


def test_a_result_that_is_not_what_its_receipt_says_is_not_exported(
    store: Store, run: RunRecord, tmp_path: Path
) -> None:
    store.put("results/upper/bob/bob.txt", b"something else")
    with pytest.raises(StoreFailed, match=r"bob\.txt is not what its receipt says"):
        export(store, run, str(tmp_path / "crate.zip"))
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_failed_in_part_says_so(store: Store, run: RunRecord, tmp_path: Path) -> None:
    store.delete(list(store.keys(layout.receipts("total", layout.COHORT))))
    store.put_json(layout.run_end(run.run_id), {"ended_at": "2026-01-01T00:00:00.000Z", "done": 6, "failed": 1})
    told = export(store, read_record(store, run.run_id), str(tmp_path / "crate"))
    assert told.left_out == 1
    assert graph_of(tmp_path / "crate")["#run"]["actionStatus"] == "http://schema.org/FailedActionStatus"


@pytest.mark.slow
@pytest.mark.parametrize("results", [True, False])
def test_the_validator_of_the_profile_takes_it(store: Store, run: RunRecord, tmp_path: Path, results: bool) -> None:
    """All requirements of the profiles; what they only recommend apart."""
    validator = VALIDATOR / "bin" / "rocrate-validator"
    if not validator.exists():
        pytest.skip("the validator is not there: scripts/install.sh crates")
    export(store, run, str(tmp_path / "crate"), results=results)
    assert judged(validator, tmp_path / "crate", tmp_path) == []

    metadata = tmp_path / "crate" / "ro-crate-metadata.json"
    broken = json.loads(metadata.read_text())
    broken["@graph"] = [entity for entity in broken["@graph"] if entity["@id"] != "#run"]
    metadata.write_text(json.dumps(broken))
    assert judged(validator, tmp_path / "crate", tmp_path) != []


def judged(validator: Path, crate: Path, folder: Path) -> list[str]:
    """What the validator finds wrong, with no network: the one document that it would fetch is in its cache."""
    report = folder / "report.json"
    words = ["-y", "validate", str(crate), "-p", PROFILE, "-l", "required", "-f", "json", "-o", str(report)]
    offline = ["--offline", "--skip-availability-check", "--cache-path", str(VALIDATOR / "contexts")]
    ran = subprocess.run([str(validator), *words, *offline], capture_output=True, text=True, check=False, timeout=120)
    assert report.exists(), ran.stdout + ran.stderr
    told = json.loads(report.read_text())
    assert told["passed"] == (ran.returncode == 0)
    return [issue["message"] for issue in told["issues"]]
