"""What builds and pushes images: docker, podman or buildah, through `sh`. All three speak the same words, nearly.

Secrets go to standard input; podman and buildah keep their login in a file that goes with the builder, docker
in its own configuration, encrypted if it has a credential helper.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from batch_pipeline.wire.errors import DeploymentFailed, InvalidUse

PROGRAMS: Final = ("docker", "podman", "buildah")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
#: Lines of a failed program's talk that are repeated.
_TAIL_LINES: Final = 15


class Builder:
    """One of the three. A context: when it ends, what was logged in to is forgotten (but by docker)."""

    def __init__(self, program: str = "", *, say: Callable[[str], None]) -> None:
        """Takes the first that is here when none is named. Raises InvalidUse when there is none."""
        import sh

        self.program = next((name for name in ((program,) if program else PROGRAMS) if _works(name)), "")
        if not self.program:
            wanted = program or " or ".join(PROGRAMS)
            raise InvalidUse(
                f"Images are built with {wanted}, and none is here that answers (`podman version`, say). Install one, "
                "or set deploy.builder."
            )
        self._say = say
        self._command = sh.Command(self.program)
        self._folder = tempfile.TemporaryDirectory(prefix="batch-pipeline-build-")
        self._authority: Path | None = None

    def __enter__(self) -> Builder:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def build(
        self, context: Path, tag: str, arguments: Mapping[str, str], labels: Mapping[str, str], *, fresh: bool = False
    ) -> None:
        """Builds the Dockerfile of a folder under a tag; `fresh` uses no cache.

        Raises DeploymentFailed with the end of its talk.
        """
        options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        options += [f"--label={name}={value}" for name, value in labels.items()]
        options += ["--no-cache"] if fresh else []
        if self.program == "docker":
            # BuildKit dates by this what it makes.
            options.append("--build-arg=SOURCE_DATE_EPOCH=0")
        else:
            # Docker's shape of manifests, which every registry and scanner takes; files dated alike each time.
            options += ["--format=docker", "--timestamp=0"]
        self._run("build", *options, "--tag", tag, str(context), what=f"build {tag}")

    def push(self, tag: str) -> str:
        """Pushes a tag and returns it by digest, as `repository@sha256:…`. Raises DeploymentFailed."""
        if self.program == "docker":
            self._run("push", tag, what=f"push {tag}")
            digests = self._digests(tag)
        else:
            file = Path(self._folder.name) / "digest"
            self._run("push", *self._options(tag), f"--digestfile={file}", tag, what=f"push {tag}")
            digests = [f"{tag.rpartition(':')[0]}@{file.read_text().strip()}"]
        if not digests or not _DIGEST.search(digests[0]):
            raise DeploymentFailed(f"{self.program} pushed {tag} and did not tell its digest. Try another builder.")
        return digests[0]

    def kept(self, tag: str) -> str:
        """An image of this machine alone, by digest where the builder knows one before it is pushed."""
        if self.program != "podman":
            return tag
        digest = self._run("image", "inspect", "--format", "{{.Digest}}", tag, what=f"find {tag}").strip()
        return f"{tag.rpartition(':')[0]}@{digest}"

    def is_here(self, image: str) -> bool:
        """Whether this machine has the image."""
        import sh

        arguments = ("inspect", "--type", "image", image)
        try:
            self._command(*arguments, _tty_out=False)
        except sh.ErrorReturnCode:
            return False
        return True

    def pulled(self, tag: str) -> str:
        """What a registry has under a tag, by digest; empty when it has nothing."""
        # podman also knows an image that was built here by a digest that no registry has seen.
        return next(filter(self.can_pull, self._digests(tag)), "") if self.can_pull(tag) else ""

    def _digests(self, tag: str) -> list[str]:
        """By which digests the tag's registry knows the image."""
        shape = "{{range .RepoDigests}}{{.}} {{end}}" if self.program != "buildah" else "{{.FromImageDigest}}"
        named = self._run("inspect", "--type", "image", "--format", shape, tag, what=f"find {tag}").split()
        repository = tag.rpartition(":")[0]
        named = [each if "@" in each else f"{repository}@{each}" for each in named]
        return [each for each in named if each.startswith(f"{repository}@")]

    def can_pull(self, image: str) -> bool:
        """Whether the registry has the image; afterwards this machine has it too."""
        import sh

        try:
            self._command("pull", "--quiet", *self._options(image), image, _env=self._environment(), _tty_out=False)
        except sh.ErrorReturnCode:
            return False
        return True

    def log_in(self, registry: str, user: str, password: str) -> None:
        """Logs in to a registry; the password is in no argument and no log. Raises DeploymentFailed."""
        if self.program != "docker":
            self._authority = Path(self._folder.name) / "auth.json"
        self._run(
            "login",
            "--username",
            user,
            "--password-stdin",
            *self._options(registry),
            registry,
            what=f"log in to {registry}",
            stdin=password,
        )

    def _options(self, image: str) -> list[str]:
        """docker takes a registry on this machine for a safe one by itself."""
        host = image.partition("/")[0].rpartition(":")[0]
        loopback = host in ("127.0.0.1", "localhost", "[::1]")
        return ["--tls-verify=false"] if loopback and self.program != "docker" else []

    def _environment(self) -> dict[str, str]:
        own = {"REGISTRY_AUTH_FILE": str(self._authority)} if self._authority else {}
        return {**os.environ, **own}

    def _run(self, *words: str, what: str, stdin: str = "") -> str:
        """Runs the program and returns what it printed; its talk is kept for when it fails."""
        import sh

        talk: list[str] = []
        printed: list[str] = []

        def listen(line: str) -> None:
            printed.append(line)
            talk.append(line)

        streams: dict[str, Any] = {"_out": listen, "_err": talk.append, "_in": stdin or None}
        try:
            self._command(*words, _env=self._environment(), _tty_out=False, _tty_in=False, **streams)
        except sh.ErrorReturnCode as error:
            for line in talk[-_TAIL_LINES:]:
                self._say(f"  {line.rstrip()}")
            raise DeploymentFailed(
                f"{self.program} could not {what} (exit code {error.exit_code}); its last words are above. Fix the "
                "cause and run the same command again: what is done is not done twice."
            ) from None
        return "".join(printed)


def _works(program: str) -> bool:
    """Whether a program is here and answers: docker's client does so only where its daemon runs."""
    import sh

    if not shutil.which(program):
        return False
    try:
        sh.Command(program)("version", _tty_out=False)
    except sh.ErrorReturnCode:
        return False
    return True
