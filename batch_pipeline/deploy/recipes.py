"""What each image is made of: its folder in `dockerfiles/`, and for the base the container's side of this package.

Folders of the pipeline's own come first. The base and the images of drivers are in this package too (links to the
repository's `dockerfiles/` and `Pipfile.lock`, copies of them in an installed package), so a pipeline needs no copies.

A recipe's digest stands for everything that goes in: image and tag are made again when it changes and only then. The
packages of the base come from Pipfile.lock, by checksum, and those of an image that has a category of its name there
(`[multiqc]` in Pipfile) too; pip, as this machine has it set up, fetches them when the image is built, so that no
Dockerfile and no image knows an index.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from batch_pipeline.pipeline.images import BASE, FOLDER
from batch_pipeline.wire.digest import canonical_json, sha256_of_bytes
from batch_pipeline.wire.errors import DeploymentFailed, InvalidUse

#: Raised when images must be built again though nothing that they are made of has changed.
FORMAT: Final = 1
#: Images of drivers (`submit`): built when they are named, for no step runs in them.
DRIVERS: Final = ("driver", "r")
#: The one among them with the whole package and all that its command line needs.
CLIENT: Final = "driver"
#: Pins packages by checksum; the pipeline's own comes first.
LOCK: Final = "Pipfile.lock"
#: What the container's side and the steps import that is not Python's own.
PACKAGES: Final = ("obstore", "sh", "typing-extensions")
#: The parts of this package that go into the base: `wire` and `container`, and what the modules of steps import.
_CODE: Final = (
    "__init__.py",
    "wire/*.py",
    "container/*.py",
    "pipeline/__init__.py",
    "pipeline/cell_facts.py",
    "pipeline/command.py",
    "pipeline/parameters.py",
    "pipeline/step.py",
    "pipeline/values.py",
    "pipeline/wiring.py",
    "pipeline/workflow.py",
)
_HERE: Final = Path(__file__).resolve().parents[1]
#: Of wheels, by the oldest C library that they work with: https://peps.python.org/pep-0600/. Debian 12 has 2.36.
_WHEELS: Final = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one image is built."""

    name: str
    folder: Path
    #: Digest of everything that goes in.
    inputs: str
    #: Build arguments; the base image, if it is built upon that, is set by the caller that builds.
    arguments: Mapping[str, str] = field(default_factory=dict)
    #: Python packages for pip, with their checksums; empty: none are unpacked into `packages/`.
    requirements: str = ""

    @property
    def tag(self) -> str:
        """Names the content, so that a tag never means two things: registries may keep them from being changed."""
        return self.inputs[:16]

    def fill(self, context: Path) -> None:
        """Fills an empty folder with what the Dockerfile copies. Raises DeploymentFailed."""
        shutil.copytree(self.folder, context, dirs_exist_ok=True)
        if self.requirements:
            _install_packages(context, self.requirements)
        if self.name in (BASE, CLIENT):
            for file in _client_files() if self.name == CLIENT else _code_files():
                target = context / "batch_pipeline" / "batch_pipeline" / file.relative_to(_HERE)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)


def recipes(root: Path, base_image: str, named: Collection[str] = ()) -> Mapping[str, Recipe]:
    """Name of an image -> its recipe, the base first; those of drivers where they are named.

    Raises InvalidUse when the pipeline's Pipfile.lock does not pin what the images need.
    """
    folders = {
        file.parent.name: file.parent
        for place in (_packaged(FOLDER), root / FOLDER)
        for file in sorted(place.glob("*/Dockerfile"))
        if file.parent.name not in DRIVERS or file.parent.name in named
    }
    base = _base(folders.pop(BASE), root, base_image)
    made = {BASE: base}
    for name, folder in folders.items():
        requirements = _requirements(root, name)
        packages = [requirements] if requirements else []
        code = _digests(_client_files()) if name == CLIENT else []
        inputs = _digest(base.inputs, *_files(folder), *packages, *code)
        made[name] = Recipe(name=name, folder=folder, inputs=inputs, requirements=requirements)
    return made


def _base(folder: Path, root: Path, base_image: str) -> Recipe:
    requirements = _requirements(root, BASE)
    return Recipe(
        name=BASE,
        folder=folder,
        inputs=_digest(requirements, platform.machine(), base_image, *_files(folder), *_digests(_code_files())),
        arguments={"BASE": base_image} if base_image else {},
        requirements=requirements,
    )


def _digest(*parts: object) -> str:
    return sha256_of_bytes(canonical_json([FORMAT, *parts]))


def _files(folder: Path) -> list[tuple[str, str]]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [(str(file.relative_to(folder)), sha256_of_bytes(file.read_bytes())) for file in files]


def _digests(files: Iterable[Path]) -> list[tuple[str, str]]:
    return [(str(file.relative_to(_HERE)), sha256_of_bytes(file.read_bytes())) for file in files]


def _code_files() -> Iterator[Path]:
    for pattern in _CODE:
        yield from sorted(_HERE.glob(pattern))


def _client_files() -> Iterator[Path]:
    """The whole package, without what only builds images."""
    apart = {*_packaged(FOLDER).rglob("*"), _packaged(LOCK)}
    yield from sorted(
        file
        for file in _HERE.rglob("*")
        if file.is_file() and file.parent.name != "__pycache__" and file.suffix != ".pyc" and file not in apart
    )


def _packaged(name: str) -> Path:
    """A file or folder for building images that this package brings."""
    return _HERE / "deploy" / name


def _requirements(root: Path, image: str) -> str:
    """Requirements of an image for pip, each with its checksums, from the lock file of the pipeline or of this package.

    Of the base those of the container's side, of the client all of the command line, of others their own category.
    """
    file = next(file for file in (root / LOCK, _packaged(LOCK)) if file.is_file())
    lock = json.loads(file.read_text(encoding="utf-8"))
    if image == BASE:
        missing = [name for name in PACKAGES if name not in lock["default"]]
        if missing:
            raise InvalidUse(
                f"{file} does not pin {', '.join(missing)}, which the images need. Run `pipenv install"
                f" {' '.join(missing)}` there, or move the file away: this package pins them too."
            )
    group = "default" if image in (BASE, CLIENT) else image
    pinned = lock.get(group, {})
    names = PACKAGES if image == BASE else sorted(name for name in pinned if "version" in pinned[name])
    lines = (
        " ".join((f"{name}{pinned[name]['version']}", *(f"--hash={each}" for each in pinned[name]["hashes"])))
        for name in names
    )
    return "".join(f"{line}\n" for line in lines)


def _install_packages(context: Path, requirements: str) -> None:
    """Lets pip unpack the wheels for the image's Python into the context."""
    import sh

    file = context / "requirements.txt"
    file.write_text(requirements, encoding="utf-8")
    platforms = [f"--platform={wheels}_{platform.machine()}" for wheels in _WHEELS]
    options = ("--python-version=3.11", "--implementation=cp", "--only-binary=:all:", "--no-deps", "--no-compile")
    try:
        sh.Command(sys.executable)(
            *("-m", "pip", "install", "--quiet", "--require-hashes", *options, *platforms),
            *("--target", str(context / "packages"), "--requirement", str(file)),
            _tty_out=False,
        )
    except sh.ErrorReturnCode as error:
        words = error.stderr.decode(errors="replace").strip().splitlines()
        raise DeploymentFailed(
            f"pip could not fetch the packages of an image: {words[-1] if words else 'it said nothing'}. See"
            f" that `{sys.executable} -m pip download obstore` works, and run the same command again."
        ) from None
