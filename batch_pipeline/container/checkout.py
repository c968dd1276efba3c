"""Puts the code of an order into a folder, commits or a bundle, and finds what runs its script there.

A commit is fetched by its SHA into an empty repository, and what is there afterwards is compared: commit, tree, files.
Submodules are commits like the first; `.gitmodules` has no say, nor has any configuration.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from batch_pipeline.container.code import unpack
from batch_pipeline.container.disk import PRIVATE
from batch_pipeline.container.fetch import fetched
from batch_pipeline.container.files import files_of
from batch_pipeline.container.logger import Logger
from batch_pipeline.wire import layout
from batch_pipeline.wire.durable import make_folder
from batch_pipeline.wire.errors import ContractBroken
from batch_pipeline.wire.git import Git
from batch_pipeline.wire.order import Checkout, DriverOrder, token_of
from batch_pipeline.wire.store import Store

#: What runs a script that is no program, by its suffix.
INTERPRETERS: Final = {".py": "python3", ".sh": "sh", ".R": "Rscript", ".r": "Rscript"}
LOGGER: Final = Logger(__name__)


def put_code(order: DriverOrder, root: Path, store: Store, environment: Mapping[str, str]) -> None:
    """Puts the code of an order into a new folder. Raises OSError, StoreFailed, and as `check_out`."""
    if order.bundle_sha256:
        unpack(fetched(files_of(store), layout.bundle(order.bundle_sha256), order.bundle_sha256), root)
        LOGGER.info("unpacked", bundle=order.bundle_sha256)
        return
    make_folder(os.fspath(root), PRIVATE)
    for checkout in order.checkouts:
        check_out(checkout, root, token_of(checkout.secret, environment))
        LOGGER.info("checked out", path=checkout.path or "code", url=checkout.url, commit=checkout.commit)


def check_out(checkout: Checkout, root: Path, token: str = "") -> None:
    """Puts a commit into its folder below the root, and verifies commit, tree and files.

    Raises RepositoryFailed when the repository cannot be read, ContractBroken for a commit that is another one.
    """
    folder = root / checkout.path
    if ".." in Path(checkout.path).parts or not folder.resolve().is_relative_to(root.resolve()):
        raise ContractBroken(f"The submodule {checkout.path!r} would leave the working tree. Submit again.")
    folder.mkdir(parents=True, exist_ok=True)
    git = Git(folder, token=token)
    git.run("init", "--quiet")
    # Runs that are begun there record where their code is from.
    git.run("remote", "add", "origin", checkout.url)
    _fetch(git, checkout)
    git.run("checkout", "--quiet", "--detach", "--force", checkout.commit)
    checked_out = (git.answer("rev-parse", "HEAD"), git.answer("rev-parse", "HEAD^{tree}"))
    changed = git.run("status", "--porcelain", "--ignore-submodules=all")
    if checked_out != (checkout.commit, checkout.tree) or changed:
        raise ContractBroken(
            f"{checkout.url} gave {checked_out[0] or 'nothing'} for {checkout.commit}, or other files than it has."
            " Nothing was run; submit again."
        )


def _fetch(git: Git, checkout: Checkout) -> None:
    """The commit alone where the server gives it, else all branches and tags."""
    shared = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head")
    git.answer(*shared, "--depth=1", "--end-of-options", checkout.url, checkout.commit)
    if not git.answer("rev-parse", "--quiet", "--verify", "--end-of-options", f"{checkout.commit}^{{tree}}"):
        git.run(
            *shared,
            "--end-of-options",
            checkout.url,
            "+refs/heads/*:refs/requested/heads/*",
            "+refs/tags/*:refs/requested/tags/*",
        )


def command_of(order: DriverOrder, code: Path, folder: Path, path: str) -> list[str]:
    """The script's command line. Raises ContractBroken when nothing here can run it."""
    rest = list(order.script[1:])
    if not order.entry:
        name = order.script[0]
        program = str(folder / name) if "/" in name and not name.startswith("/") else shutil.which(name, path=path)
        if not program:
            raise ContractBroken(f"There is no program {name!r} in the image. Name one, or a script of a repository.")
        return [program, *rest]
    script = code / order.entry
    if os.access(script, os.X_OK):
        return [str(script), *rest]
    name = INTERPRETERS.get(script.suffix, "")
    interpreter = shutil.which(name, path=path) if name else None
    if interpreter is None:
        raise ContractBroken(
            f"Nothing here runs {order.entry}: it has no executable bit, and {name or 'its suffix'} is not known here."
            " Make it executable, or use an image that has what runs it."
        )
    return [interpreter, str(script), *rest]
