"""Directories and patterns as outputs: what is published, refused, removed, and staged for those that read it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from batch_pipeline.container import listed_ports
from batch_pipeline.container.listed_ports import listed_records
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import ContractBroken
from batch_pipeline.wire.manifest import InputSpec, Manifest, OutputSpec, RetiredReceipt, Row, write_rows
from batch_pipeline.wire.receipt import FileRecord, Receipt
from tests.container.conftest import Workshop

QC = OutputSpec(port="qc", files=("{sample}_qc/",), form="directory")
PARTS = OutputSpec(port="parts", files=("*.vcf",), form="many")
FINGERPRINT = "f" * 16
LATER = "S"


def cell(
    workshop: Workshop, script: str, *, outputs: Sequence[OutputSpec] = (QC,), attempt: int = 1, **manifest: Any
) -> dict[str, str]:
    """A cell without inputs whose script leaves what a test wants."""
    retired = manifest.pop("retired", None)
    row = Row(sample=manifest.pop("sample", "s1"), fingerprint=FINGERPRINT, retired=retired)
    environment = workshop.submit(
        [row],
        script="step.sh",
        bundle_sha256=workshop.bundle({"step.sh": f"#!/bin/bash\nset -e\n{script}\n"}),
        outputs=tuple(outputs),
        **manifest,
    )
    return {**environment, "AWS_BATCH_JOB_ATTEMPT": str(attempt)}


def stands(workshop: Workshop) -> RetiredReceipt:
    """The cell's receipt, retired, though nothing has changed."""
    (entry,) = workshop.store.list(layout.receipts("copy", "s1"))
    return RetiredReceipt(version=workshop.store.version(entry), must_run=True)


def keys(workshop: Workshop, prefix: str = "results/copy/s1") -> list[str]:
    return sorted(entry.key.removeprefix(f"{prefix}/") for entry in workshop.store.list(prefix))


def listed(workshop: Workshop) -> list[str]:
    """The names in the cell's receipt, in its order."""
    receipt = workshop.receipt()
    assert receipt is not None
    return [record.key.removeprefix("results/copy/s1/") for record in receipt.outputs]


def test_a_directory_is_published_with_its_tree(workshop: Workshop) -> None:
    """It is there before the step, and its empty folders are nothing."""
    script = 'cd "$OUTPUT_DIR/s1_qc"; mkdir -p a/b empty; echo 1 >a/b/x; echo 2 >"a b%20.txt"; echo 3 >.hid'
    assert workshop.live(cell(workshop, script)) == 0, workshop.log
    names = ["s1_qc/.hid", "s1_qc/a b%20.txt", "s1_qc/a/b/x"]
    assert keys(workshop) == listed(workshop) == names
    receipt = workshop.receipt()
    assert receipt is not None
    assert {record.port for record in receipt.outputs} == {"qc"}
    digests = [hashlib.sha256(workshop.result(name)).hexdigest() for name in names]
    assert [record.sha256 for record in receipt.outputs] == digests


def test_patterns_are_published_in_sorted_order(workshop: Workshop) -> None:
    outputs = (OutputSpec(port="parts", files=("*.vcf", "{sample}/chr?.txt"), form="many"),)
    script = "mkdir s1 d.vcf; touch b.vcf a.vcf .c.vcf s1/chr1.txt s1/chr10.txt other.txt d.vcf/e.vcf"
    assert workshop.live(cell(workshop, script, outputs=outputs)) == 0, workshop.log
    assert keys(workshop) == listed(workshop) == ["a.vcf", "b.vcf", "s1/chr1.txt"]


@pytest.mark.parametrize(
    ("script", "outputs", "words"),
    [
        ("true", (QC,), "left no file in 's1_qc/', its output 'qc'"),
        ("mkdir s1_qc/empty", (QC,), "left no file in 's1_qc/'"),
        ("rmdir s1_qc", (QC,), "left no file in 's1_qc/'"),
        ("rmdir s1_qc; touch s1_qc", (QC,), "left a file as 's1_qc', its output 'qc'; it must be a directory"),
        ("rmdir s1_qc; ln -s /etc s1_qc", (QC,), "left a link as 's1_qc/'"),
        ("true", (PARTS,), "left no file like '*.vcf', its output 'parts'"),
        ("touch a.vcf", (replace(PARTS, files=("*.vcf", "*.tbi")),), "left no file like '*.tbi'"),
        ("touch a.vcf", (PARTS, replace(PARTS, port="all", files=("a*",))), "both have results/copy/s1/a.vcf"),
        ("ln -s /etc/passwd s1_qc/x", (QC,), "a link to /etc/passwd, which is not a file in the working directory"),
        ("ln -s /etc/passwd x.vcf", (PARTS,), "a link to /etc/passwd, which is not a file in the working directory"),
        ("ln -s nowhere x.vcf", (PARTS,), "which is not a file in the working directory"),
        ("ln -s ../../../.. s1_qc/x", (QC,), "which is not a file in the working directory"),
        ("ln -s x s1_qc/x", (QC,), "which is not a file in the working directory"),
        ("mkdir d; ln -s ../d s1_qc/x", (QC,), "a link to a folder"),
        ("ln -s /etc d", (replace(PARTS, files=("*/passwd",)),), "which is not a file in the working directory"),
        ("mkfifo s1_qc/x", (QC,), "a special file"),
        ("mkfifo x.vcf", (PARTS,), "a special file"),
        ("touch $'s1_qc/a\\tb'", (QC,), "which cannot be a key of the store"),
        ("touch $'s1_qc/a\\nb'", (QC,), "which cannot be a key of the store"),
        ("touch $'s1_qc/a\\377b'", (QC,), "which cannot be a key of the store"),
        ("touch $'s1_qc/a\\u2028b'", (QC,), "which cannot be a key of the store"),
        ("touch $'a\\x7f.vcf'", (PARTS,), "which cannot be a key of the store"),
        ("touch 's1_qc/a '", (QC,), "which cannot be a key of the store"),
        ("touch 's1_qc/a#12'", (QC,), "which cannot be a key of the store"),
        ("mkdir 's1_qc/a#12'; touch 's1_qc/a#12/b'", (QC,), "which cannot be a key of the store"),
        ("d=s1_qc/$(printf a%.0s {1..240}); mkdir -p $d/$d/$d/$d; touch $d/$d/$d/$d/x", (QC,), "too long for a key"),
    ],
)
def test_what_cannot_be_published_is_refused(
    memory_workshop: Workshop, script: str, outputs: Sequence[OutputSpec], words: str
) -> None:
    environment = {**cell(memory_workshop, script, outputs=outputs), "LC_ALL": "C.UTF-8"}
    assert memory_workshop.live(environment) == 65
    failure = memory_workshop.failure()
    assert failure is not None
    assert words in failure.message
    assert failure.end_reason == "invalid_output"
    assert keys(memory_workshop) == []


def test_an_optional_one_may_be_empty(workshop: Workshop) -> None:
    outputs = (replace(QC, optional=True), replace(PARTS, optional=True))
    assert workshop.live(cell(workshop, "true", outputs=outputs)) == 0, workshop.log
    assert listed(workshop) == []


def test_too_many_files_are_refused(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listed_ports, "MAX_FILES", 3)
    assert workshop.live(cell(workshop, "touch s1_qc/{1,2,3,4}")) == 65
    failure = workshop.failure()
    assert failure is not None
    assert "left more than 3 files as its output 'qc'. Pack them" in failure.message


def test_a_link_within_the_folder_is_published_as_its_file(workshop: Workshop) -> None:
    script = "cd s1_qc; echo run >run1; ln -s run1 latest; ln run1 h; echo out >../out; ln -s ../out zz"
    assert workshop.live(cell(workshop, script)) == 0, workshop.log
    assert listed(workshop) == ["s1_qc/h", "s1_qc/latest", "s1_qc/run1", "s1_qc/zz"]
    assert [workshop.result(name) for name in listed(workshop)] == [b"run\n", b"run\n", b"run\n", b"out\n"]
    if workshop.store.folder:
        assert not any(path.is_symlink() for path in workshop.store.folder.rglob("results/**/*"))


def test_what_is_not_made_again_goes(workshop: Workshop) -> None:
    """Also where a folder becomes a file, and a file a folder."""
    outputs = (QC, PARTS)
    script = "mkdir s1_qc/d; touch s1_qc/{a,b,d/x} 1.vcf 2.vcf"
    assert workshop.live(cell(workshop, script, outputs=outputs)) == 0, workshop.log
    assert len(keys(workshop)) == 5
    script = "mkdir s1_qc/a; touch s1_qc/{a/x,c,d} 2.vcf"
    again = cell(workshop, script, outputs=outputs, run_id=LATER, retired=stands(workshop))
    assert workshop.live(again) == 0, workshop.log
    assert keys(workshop) == sorted(listed(workshop)) == ["2.vcf", "s1_qc/a/x", "s1_qc/c", "s1_qc/d"]
    assert (
        workshop.live(cell(workshop, "touch s1_qc/c 2.vcf", outputs=outputs, run_id="T", retired=stands(workshop))) == 0
    )
    assert keys(workshop) == ["2.vcf", "s1_qc/c"]
    if workshop.store.folder:
        assert [path.name for path in (workshop.store.folder / "results/copy/s1/s1_qc").iterdir()] == ["c"]


def test_what_a_killed_attempt_published_goes(workshop: Workshop) -> None:
    """No receipt names it. What belongs to nobody's port stays, and so does what a link in the store leads to."""
    for name in ("s1_qc/half", "s1_qc/d/half", "half.vcf", "half.txt", "sub/half.vcf"):
        workshop.store.put(f"results/copy/s1/{name}", b"half")
    workshop.store.put("results/copy/s10/s1_qc/x", b"another sample's")
    outside = workshop.root / "outside"
    if workshop.store.folder:
        outside.mkdir()
        (outside / "mine").touch()
        (workshop.store.folder / "results/copy/s1/s1_qc/link").symlink_to(outside)
    assert workshop.live(cell(workshop, "touch s1_qc/a 1.vcf", outputs=(QC, PARTS), attempt=2)) == 0, workshop.log
    assert keys(workshop) == ["1.vcf", "half.txt", "s1_qc/a", "sub/half.vcf"]
    assert keys(workshop, "results/copy/s10") == ["s1_qc/x"]
    assert not workshop.store.folder or list(outside.iterdir()) == [outside / "mine"]


def test_beside_a_built_reference_patterns_remove_nothing(workshop: Workshop) -> None:
    """People put files of theirs there."""
    workshop.store.put("references/grch38/own.txt", b"own")
    outputs = (replace(PARTS, files=("*.txt",)), replace(QC, files=("star/",)))
    environment = cell(workshop, "touch made.txt star/SA", outputs=outputs, sample="grch38", scope="reference")
    assert workshop.live(environment) == 0, workshop.log
    assert keys(workshop, "references/grch38") == ["made.txt", "own.txt", "star/SA"]


def test_equal_bytes_replace_nothing(folder_workshop: Workshop) -> None:
    workshop = folder_workshop
    assert workshop.live(cell(workshop, "echo 1 >s1_qc/a; echo 2 >s1_qc/b")) == 0
    assert workshop.store.folder is not None
    folder = workshop.store.folder / "results/copy/s1/s1_qc"
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    again = cell(workshop, "echo 1 >s1_qc/a; echo 3 >s1_qc/b", run_id=LATER, retired=stands(workshop))
    assert workshop.live(again) == 0
    after = {path.name: path.stat().st_ino for path in folder.iterdir()}
    assert after["a"] == before["a"]
    assert workshop.result("s1_qc/b") == b"3\n"


@pytest.mark.parametrize(
    ("harm", "is_kept"),
    [
        (lambda workshop: None, True),
        (lambda workshop: workshop.store.delete(["results/copy/s1/s1_qc/b"]), False),
        (lambda workshop: workshop.store.put("results/copy/s1/s1_qc/b", b"other"), False),
    ],
)
def test_an_unchanged_directory_is_kept(workshop: Workshop, harm: Callable[[Workshop], object], is_kept: bool) -> None:
    assert workshop.live(cell(workshop, "touch s1_qc/{a,b}")) == 0
    retired = replace(stands(workshop), must_run=False)
    harm(workshop)
    assert workshop.live(cell(workshop, "touch s1_qc/{a,b}", run_id=LATER, retired=retired)) == 0
    receipt = workshop.receipt()
    assert receipt is not None
    assert bool(receipt.kept) == is_kept
    assert listed(workshop) == keys(workshop) == ["s1_qc/a", "s1_qc/b"]


def reader(workshop: Workshop, names: Sequence[str], *, retired: RetiredReceipt | None = None) -> dict[str, str]:
    """A cell that reads what another one left in a directory, and fewer or more files than a plan could know."""
    upstream = upstream_of(workshop, "s1", names)
    return workshop.submit(
        [Row(sample="s1", fingerprint=FINGERPRINT, upstream={"above": upstream}, retired=retired)],
        script="step.sh",
        run_id=LATER if retired else "R",
        bundle_sha256=workshop.bundle({"step.sh": FIND}),
        inputs=(INPUT,),
        outputs=(OutputSpec(port="y", files=("y",)),),
    )


FIND = '#!/bin/sh\ncd "$INPUT_QC_DIRECTORY"; find . -type l -o -type f >"$OUTPUT_DIR/y"\n'
INPUT = InputSpec(port="qc", kind="step", step="above", files=("deep/{sample}_qc/",), form="directory", output="qc")


def upstream_of(workshop: Workshop, sample: str, names: Sequence[str]) -> str:
    """A cell `above` whose port `qc` has these files, and another port one that is nobody's business."""
    fingerprint = workshop.upstream("above", sample, {name: name.encode() for name in (*names, "else.txt")})
    key = layout.receipt("above", sample, fingerprint)
    value = workshop.store.get_json(key)
    for output in value["outputs"]:
        output["port"] = "out" if output["key"].endswith("else.txt") else "qc"
    workshop.store.put_json(key, value)
    return fingerprint


@pytest.mark.parametrize(
    ("names", "is_kept"), [("ab", True), ("a", False), ("abc", False)], ids=["same", "fewer", "more"]
)
def test_another_number_of_files_is_another_input(workshop: Workshop, names: str, is_kept: bool) -> None:
    assert workshop.live(reader(workshop, ["deep/s1_qc/a", "deep/s1_qc/b"])) == 0, workshop.log
    retired = replace(stands(workshop), must_run=False)
    environment = reader(workshop, [f"deep/s1_qc/{name}" for name in names], retired=retired)
    assert workshop.live(environment) == 0, workshop.log
    receipt = workshop.receipt()
    assert receipt is not None
    assert bool(receipt.kept) == is_kept
    assert sorted(workshop.result().split()) == [f"./{name}".encode() for name in names]


def test_a_script_finds_the_folder_the_files_and_a_list(workshop: Workshop) -> None:
    upstream = upstream_of(workshop, "s1", ["deep/s1_qc/d/x", "deep/s1_qc/a b"])
    script = """#!/bin/sh
    for paths in "$INPUT_QC" "$INPUT_QC_DIRECTORY"; do echo "$paths"; done | sed "s|$(dirname "$OUTPUT_DIR")||g" >y
    while IFS="	" read -r sample path; do echo "$sample $(cat "$path")"; done <"$INPUT_QC_LIST" >>y
    """
    environment = workshop.submit(
        [Row(sample="s1", fingerprint=FINGERPRINT, upstream={"above": upstream})],
        script="step.sh",
        bundle_sha256=workshop.bundle({"step.sh": script}),
        inputs=(INPUT,),
        outputs=(OutputSpec(port="y", files=("y",)),),
    )
    assert workshop.live(environment) == 0, workshop.log
    assert workshop.result().decode().splitlines() == [
        "/in-qc/s1_qc/a b /in-qc/s1_qc/d/x",
        "/in-qc/s1_qc",
        "s1 deep/s1_qc/a b",
        "s1 deep/s1_qc/d/x",
    ]


def test_a_required_port_without_files_is_told(memory_workshop: Workshop) -> None:
    """The results of other code are trusted, and that one called its directory otherwise."""
    upstream = upstream_of(memory_workshop, "s1", ["old_qc/x"])
    environment = memory_workshop.script(
        "#!/bin/sh\ntouch y\n",
        inputs=(INPUT,),
        required=("qc",),
        gathered={},
    )
    row = Row(sample="s1", fingerprint=FINGERPRINT, upstream={"above": upstream})
    header = memory_workshop.store.get_json(environment["BATCH_PIPELINE_MANIFEST"])
    text, width = write_rows([row])
    folder = environment["BATCH_PIPELINE_MANIFEST"].rpartition("/")[0]
    memory_workshop.store.put(f"{folder}/rows.txt", text)
    memory_workshop.store.put_json(f"{folder}/manifest.json", header | {"row_bytes": width})
    assert memory_workshop.live(environment) == 66
    failure = memory_workshop.failure()
    assert failure is not None
    assert "above of s1 has no 'deep/s1_qc/', which input 'qc' needs: other code made it." in failure.message


GATHER = """
class S(Step):
    y = Output("y")
    def run(self, job):
        above = job.work.parent
        files = {sample: [str(one.relative_to(above)) for one in files] for sample, files in job.gathered("qc").items()}
        folders = {sample: len(list(one.iterdir())) for sample, one in job.gathered_directories("qc").items()}
        job.output("y").write_text(f"{files} {folders}")
"""


def test_a_gather_gets_a_folder_a_sample(workshop: Workshop) -> None:
    """One of them is optional and empty; the folder is there."""
    cells = [(sample, upstream_of(workshop, sample, names)) for sample, names in (("s1", ["deep/s1_qc/x"]), ("s2", []))]
    environment = workshop.python(
        GATHER,
        scope="cohort",
        inputs=(replace(INPUT, kind="gather"),),
        gathered={"above": cells},
    )
    assert workshop.live(environment) == 0, workshop.log
    assert workshop.result() == b"{'s1': ['in-qc/s1/s1_qc/x'], 's2': []} {'s1': 1, 's2': 0}"


@pytest.mark.parametrize("name", ["../x", "a/../../../x", "./x", "a//x"])
def test_a_receipt_cannot_lead_out_of_the_folder(name: str) -> None:
    spec = InputSpec(port="qc", kind="step", step="above", files=("qc/",), form="directory", output="qc")
    record = FileRecord(port="qc", key=f"results/above/s1/qc/{name}", size_bytes=0)
    receipt = Receipt(
        run_id="R",
        step="above",
        sample="s1",
        fingerprint="",
        attempt=1,
        started_at="",
        stopped_at="",
        outputs=(record,),
    )
    with pytest.raises(ContractBroken, match="which is no result"):
        list(listed_records(spec, "s1", receipt))


def test_only_a_header_that_needs_it_names_a_form() -> None:
    """Images of before read the others."""
    plain = Manifest(
        run_id="R",
        job="j",
        step="copy",
        scope="sample",
        entry="",
        inputs=(InputSpec(port="x", kind="step", step="above", files=("x",)),),
        outputs=(OutputSpec(port="y", files=("y",)),),
    )
    assert plain.to_json()["inputs"] == [{"port": "x", "kind": "step", "step": "above", "files": ("x",)}]
    assert plain.to_json()["outputs"] == [{"port": "y", "files": ("y",), "optional": False}]
    needed = replace(plain, inputs=(INPUT,), outputs=(QC, PARTS), needs=("directory", "many"), format=3)
    for manifest in (plain, needed):
        assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


@pytest.mark.slow
def test_ten_thousand_files_are_many_and_work(memory_workshop: Workshop) -> None:
    """With a receipt of some 150 bytes a file."""
    workshop = memory_workshop
    script = "mkdir s1_qc/{0..9}; touch s1_qc/{0..9}/{1..1000}.txt"
    assert workshop.live(cell(workshop, script)) == 0, workshop.log
    (entry,) = workshop.store.list(layout.receipts("copy", "s1"))
    assert len(listed(workshop)) == 10_000
    assert entry.size_bytes < 1_600_000
    again = cell(workshop, "touch s1_qc/only", run_id=LATER, retired=stands(workshop))
    assert workshop.live(again) == 0, workshop.log
    assert keys(workshop) == ["s1_qc/only"]
