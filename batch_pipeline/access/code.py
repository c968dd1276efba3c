"""Facts about a commit, from the remote itself: fetched for each request, into a cache that nobody else writes to.

The user's working copy is never looked at: its branches may be old, its history cut off, its objects replaced, its
configuration lead elsewhere. The cache holds the remote's branches and tags as they are now (what was force-pushed away
or deleted is gone from them), and whether a commit can be reached is decided by these alone. The URL is the policy's.
Submodules are listed from the tree of the commit, and each is looked up in its own repository in the same way.
"""

from __future__ import annotations

import fcntl
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from batch_pipeline.access.names import entry_of, folder_of
from batch_pipeline.access.policy import DatasetPolicy, RepositoryRule, repository_key
from batch_pipeline.access.request import CodeFacts, EntryKind, SubmitRequest, SubmoduleFacts
from batch_pipeline.log import Facts
from batch_pipeline.wire.digest import fingerprint_of
from batch_pipeline.wire.git import Git
from batch_pipeline.wire.scratch import private_folder

HEADS: Final = "refs/asked/heads/"
TAGS: Final = "refs/asked/tags/"
_LOG: Final = logging.getLogger(__name__)
_SHORT: Final = re.compile(r"[0-9a-f]{7,64}")
_LINK_MODE, _FOLDER_MODE, _SUBMODULE_MODE, _PROGRAM_MODE = "120000", "040000", "160000", "100755"
#: Submodules of submodules of …; more is a mistake.
MOST_DEPTH: Final = 5

#: Gives the token that a reference names; nothing for none.
Tokens = Callable[[str], str]


def code_facts(
    request: SubmitRequest, policy: DatasetPolicy, cache: Path, tokens: Tokens = lambda reference: ""
) -> CodeFacts | None:
    """Facts about the commit of a request; None when the request or the policy names no repository.

    `tokens` is called only with references of the policy. Raises RepositoryFailed.
    """
    rule = policy.repository(request.repository) if request.repository else None
    if rule is None:
        return None
    with fetched(rule, cache, tokens) as git:
        commit = _resolved(git, request.commit)
        facts = _known(git, rule, commit)
        if not facts.commit:
            return facts
        modules = tuple(_submodules(git, facts.commit, policy, cache, tokens, (rule.url,)))
        inside = [item.path for item in modules]
        cwd = folder_of(request.cwd)
        return replace(
            facts,
            entry_kind=_entry_kind(git, facts.commit, entry_of(request.cwd, request.script[0]), inside),
            cwd_missing=bool(cwd) and _entry_kind(git, facts.commit, cwd, inside) is not EntryKind.FOLDER,
            submodules=modules,
        )


@contextmanager
def fetched(rule: RepositoryRule, cache: Path, tokens: Tokens) -> Iterator[Git]:
    """The cache of a repository, as the remote is now, held for this process alone.

    Raises RepositoryFailed, UnsafeFolder.
    """
    private_folder(cache.resolve(), "Name another folder (access.cache)")
    folder = cache / f"{fingerprint_of(rule.url)}.git"
    begun = time.monotonic()
    with (cache / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waited = time.monotonic() - begun
        git = Git(folder, token=tokens(rule.secret) if rule.secret else "")
        if not (folder / "HEAD").is_file():
            folder.mkdir(exist_ok=True)
            git.run("init", "--quiet", "--bare")
        git.run(
            *("fetch", "--quiet", "--force", "--prune", "--no-tags", "--no-recurse-submodules", "--update-shallow"),
            *("--no-write-fetch-head", "--end-of-options", rule.url),
            *(f"+refs/heads/*:{HEADS}*", f"+refs/tags/*:{TAGS}*"),
        )
        seconds = time.monotonic() - begun - waited
        _LOG.info("fetched %s", Facts(repository=rule.url, lock_seconds=round(waited, 3), seconds=round(seconds, 3)))
        try:
            yield git
        finally:
            if (folder / "shallow").exists():
                # Where history was cut off once, it stays so: the next request fetches from scratch.
                shutil.rmtree(folder, ignore_errors=True)


def _resolved(git: Git, revision: str) -> str:
    """The full SHA of a commit named by SHA, branch, tag or beginning of a SHA; empty: there is none."""
    if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", revision):
        return git.answer("rev-parse", "--quiet", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    for name in (f"{HEADS}{revision}", f"{TAGS}{revision}"):
        if git.answer("show-ref", "--verify", "--", name):
            return git.answer("rev-parse", "--quiet", "--verify", "--end-of-options", f"{name}^{{commit}}")
    if _SHORT.fullmatch(revision):
        return git.answer("rev-parse", "--quiet", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    return ""


def _known(git: Git, rule: RepositoryRule, commit: str) -> CodeFacts:
    """What branches and tags say of a commit; without one when none of them leads to it."""
    head = git.answer("rev-parse", "--quiet", "--verify", "--end-of-options", f"{HEADS}{rule.protected_branch}")
    base = CodeFacts(repository=rule.url, protected_branch=rule.protected_branch, protected_head=head)
    leading = _leading(git, commit) if commit else []
    if not leading:
        return base
    pointing = git.run("for-each-ref", "--points-at", commit, "--format=%(refname)", TAGS).split()
    shallow = git.answer("rev-parse", "--is-shallow-repository") == "true"
    return replace(
        base,
        commit=commit,
        tree=git.run("rev-parse", "--verify", "--end-of-options", f"{commit}^{{tree}}").strip(),
        merged=bool(head) and git.asks("merge-base", "--is-ancestor", commit, head),
        shallow=shallow,
        branches=tuple(name.removeprefix(HEADS) for name in leading if name.startswith(HEADS)),
        tags=tuple(name.removeprefix(TAGS) for name in pointing),
    )


def _leading(git: Git, commit: str) -> list[str]:
    """Branches and tags from which a commit can be reached."""
    return git.run("for-each-ref", "--contains", commit, "--format=%(refname)", HEADS, TAGS).split()


def _entry_kind(git: Git, commit: str, path: str, submodules: list[str]) -> EntryKind:
    """What a path is in the tree of a commit; no link is followed."""
    if not path:
        return EntryKind.MISSING
    if any(path == inside or path.startswith(f"{inside}/") for inside in submodules):
        return EntryKind.SUBMODULE
    listing = git.answer("ls-tree", "-z", "--full-tree", commit, "--", path).rstrip("\0")
    mode, _, rest = listing.partition(" ")
    if not listing or "\0" in listing or rest.partition("\t")[2] != path:
        return EntryKind.MISSING
    kinds = {
        _LINK_MODE: EntryKind.LINK,
        _FOLDER_MODE: EntryKind.FOLDER,
        _SUBMODULE_MODE: EntryKind.SUBMODULE,
        _PROGRAM_MODE: EntryKind.PROGRAM,
    }
    return kinds.get(mode, EntryKind.FILE)


def _submodules(
    git: Git, commit: str, policy: DatasetPolicy, cache: Path, tokens: Tokens, held: tuple[str, ...], above: str = ""
) -> Iterator[SubmoduleFacts]:
    """The submodules of a commit, and theirs, each as its own repository knows it.

    `held` are the repositories on the way there: a submodule that leads back to one of them is not allowed.
    """
    links = dict(_links(git, commit))
    urls = _urls(git, commit) if links else {}
    for path, pinned in links.items():
        place = f"{above}{path}"
        url = _whole(urls.get(path, ""), held[-1])
        rule = policy.repository(url) if repository_key(url) else None
        if rule is None or rule.url in held or len(held) > MOST_DEPTH:
            yield SubmoduleFacts(path=place, url=url, commit=pinned, allowed=False)
            continue
        with fetched(rule, cache, tokens) as inner:
            facts = _known(inner, rule, _resolved(inner, pinned))
            yield SubmoduleFacts(
                path=place,
                url=rule.url,
                commit=facts.commit,
                tree=facts.tree,
                allowed=True,
                merged=facts.merged and not facts.shallow,
                secret=rule.secret,
            )
            if facts.commit:
                yield from _submodules(inner, facts.commit, policy, cache, tokens, (*held, rule.url), f"{place}/")


def _links(git: Git, commit: str) -> Iterator[tuple[str, str]]:
    """Path and commit of the submodules in a tree."""
    for entry in git.run("ls-tree", "-r", "-z", "--full-tree", commit).split("\0"):
        header, _, path = entry.partition("\t")
        if header.startswith(f"{_SUBMODULE_MODE} "):
            yield path, header.split()[2]


def _urls(git: Git, commit: str) -> dict[str, str]:
    """Path -> URL, as `.gitmodules` in a tree has them."""
    configured = git.answer(
        "config", "--blob", f"{commit}:.gitmodules", "-z", "--get-regexp", r"^submodule\..*\.(path|url)$"
    )
    sections: dict[str, dict[str, str]] = {}
    for entry in configured.split("\0"):
        key, _, value = entry.partition("\n")
        name, _, what = key.rpartition(".")
        sections.setdefault(name, {})[what] = value
    return {item["path"]: item["url"] for item in sections.values() if {"path", "url"} <= set(item)}


def _whole(url: str, above: str) -> str:
    """A submodule's URL; a relative one seen from the repository above."""
    if not url.startswith(("./", "../")):
        return url
    parts = above.rstrip("/").split("/")
    for part in url.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)
