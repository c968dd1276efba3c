"""The commands of docs/aws.md print what it shows, as far as AWS's stand-in goes."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest

from batch_pipeline import WorkflowTask
from batch_pipeline.cli import run_command_line
from batch_pipeline.deploy.recipes import recipes
from batch_pipeline.deploy.stack_states import event_sentence
from batch_pipeline.pipeline.images import Pin, pins_text

pytestmark = [pytest.mark.moto, pytest.mark.filterwarnings("ignore:Tried to parse")]

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "aws.md").read_text()
#: What the steps name, and empty here.
REFERENCE = (
    "kallisto.idx",
    "pizzly.cache",
    "transcripts.tsv",
    "transcripts.fa.gz",
    "reference.json",
    "annotation.gtf.gz",
)
MEDIA_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
BUCKET = "s3://batch-pipeline-123456789012"
#: What differs from one account, machine or version to the next.
CHANGING = (
    (r"\(\d+ resources\)", "(N resources)"),
    (r"(?<=Role-)\w+", "ID"),
    (r"code/\S+\.zip \([\d,]+ bytes\)", "code/ID.zip"),
    (r"-[0-9a-f]{12}(?=:1)", "-ID"),
    (r"sha256:\S+", "sha256:ID"),
    (r"(?<=user/)\w+", "ID"),
    (r"python: \S+ \(.*\)", "python: VERSION"),
    (r"\S+(?=/batch_pipeline.toml is written)", ""),
)


def shown(command: str) -> list[str]:
    """The lines that the page shows below a command, without those that say that something is left out."""
    below = PAGE.partition(f"$ python main.py {command}\n")[2]
    lines = re.split(r"^(?:```|\$ )", below, maxsplit=1, flags=re.MULTILINE)[0].splitlines()
    return [line for line in lines if line.strip() not in ("", "…")]


def as_one(line: str) -> str:
    for pattern, replacement in CHANGING:
        line = re.sub(pattern, replacement, line)
    return line.rstrip()


Shell = Callable[[str], list[str]]


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[WorkflowTask]]:
    """A copy of the fusion pipeline; other tests have the steps of the repository, and get them back."""
    for name in ("steps", "dockerfiles", "job_definitions"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "main.py", tmp_path / "pipeline_of_the_page.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "steps"}
    yield importlib.import_module("pipeline_of_the_page").Fusions
    for name in [name for name in sys.modules if name.split(".")[0] in ("steps", "pipeline_of_the_page")]:
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture
def shell(
    aws: None,
    pipeline: type[WorkflowTask],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Shell:
    """Gives a command of the page, of which `python main.py` is left away, to the pipeline; S3 is a folder."""
    monkeypatch.chdir(tmp_path)
    prompts: list[str] = []

    def answer(prompt: str) -> str:
        prompts.append(f"{prompt}y")
        return "y"

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.termui.visible_prompt_func", answer)

    def run(command: str) -> list[str]:
        capsys.readouterr()
        prompts.clear()
        store = () if "infrastructure" in command else ("--store", str(tmp_path / "store"))
        code = run_command_line(pipeline, [*command.split(), *store])
        out, err = capsys.readouterr()
        assert code == 0, out + err
        text = "\n".join((err, *prompts, out)).replace((tmp_path / "store").as_uri(), BUCKET)
        return [as_one(line) for line in text.splitlines()]

    return run


def assert_shown(shell: Shell, command: str, *, but: str = "nothing") -> None:
    printed = iter(shell(command))
    for line in (line for line in shown(command) if not re.search(but, line)):
        assert any(as_one(line) == other for other in printed), f"{command} did not print {line!r}"


def push_images(folder: Path) -> None:
    """Puts an image of each step into its repository, and pins it."""
    pins = {}
    for name, recipe in recipes(folder, "debian:12-slim", ()).items():
        manifest = json.dumps({"schemaVersion": 2, "mediaType": MEDIA_TYPE, "config": {"digest": name}})
        image = boto3.client("ecr").put_image(repositoryName=f"batch-pipeline/{name}", imageManifest=manifest)["image"]
        place = f"123456789012.dkr.ecr.us-east-1.amazonaws.com/batch-pipeline/{name}@{image['imageId']['imageDigest']}"
        pins[name] = Pin(image=place, inputs=recipe.inputs)
    (folder / "dockerfiles" / "images.json").write_text(pins_text(pins))


def test_the_page_shows_what_its_commands_print(shell: Shell, tmp_path: Path) -> None:
    reference = tmp_path / "store" / "references" / "GRCh38"
    reference.mkdir(parents=True)
    for name in REFERENCE:
        (reference / name).write_text("{}")
    (tmp_path / "store" / "SR").mkdir()
    for sample in ("S1", "S2"):
        (tmp_path / "store" / "SR" / f"{sample}.bam").write_text(sample)
    (tmp_path / "samples.txt").write_text("S1\nS2\n")

    # The stand-in tells no events of resources.
    assert_shown(shell, "deploy infrastructure --backend aws --write-settings", but=r": made$")
    settings = re.search(r"^```toml\n(\[store\]\nbucket.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert settings
    assert as_one((tmp_path / "batch_pipeline.toml").read_text()) == as_one(settings[1])
    push_images(tmp_path)
    assert_shown(shell, "deploy definitions")
    assert_shown(shell, "deploy code")
    assert_shown(shell, "doctor --sample-list-file samples.txt")
    assert not [line for line in shell("doctor --sample-list-file samples.txt") if line.startswith("warn lint")]
    assert_shown(shell, "plan --sample-list-file samples.txt --estimate")
    assert_shown(shell, "cancel")
    assert_shown(shell, "deploy prune")


def test_an_event_is_told_as_the_page_shows_it() -> None:
    event = {"LogicalResourceId": "Vpc", "ResourceType": "AWS::EC2::VPC", "ResourceStatus": "CREATE_COMPLETE"}
    assert event_sentence(event | {"PhysicalResourceId": "vpc-1"})[0] in PAGE.splitlines()
