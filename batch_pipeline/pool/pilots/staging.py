"""Brings a task's inputs into its folder and takes its outputs from there: `INPUT_…` and `OUTPUT_…` name them.

A place is a key in the pool's store or a whole URL. An output is published after its command ended well and after the
pilot made sure that the task still is its own, so that a pilot that was taken for dead writes over nobody's result.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from batch_pipeline.pool.task import TaskSpec
from batch_pipeline.wire.errors import InvalidOutput, MissingInput
from batch_pipeline.wire.store import NotInStore, Store


def needs_folder(spec: TaskSpec) -> bool:
    """Whether a task runs in a folder of its own: it has files to bring or to take."""
    return bool(spec.inputs or spec.outputs)


def variables(spec: TaskSpec, folder: Path) -> dict[str, str]:
    """Where a task's command finds its inputs and puts its outputs."""
    both = (("INPUT", spec.inputs), ("OUTPUT", spec.outputs))
    return {
        f"{kind}_{_word(port)}": str(_path(folder, kind, port, place))
        for kind, ports in both
        for port, place in ports.items()
    }


def stage_in(spec: TaskSpec, folder: Path, store: Store) -> None:
    """Fetches the inputs. Raises MissingInput, StoreFailed."""
    for kind in ("INPUT", "OUTPUT"):
        (folder / kind.lower()).mkdir(parents=True, exist_ok=True)
    for port, place in spec.inputs.items():
        source, key = _located(store, place)
        path = _path(folder, "INPUT", port, place)
        path.parent.mkdir(exist_ok=True)
        try:
            _, pieces = source.stream(key)
            with path.open("wb") as file:
                file.writelines(pieces)
        except NotInStore as error:
            raise MissingInput(
                f"Input {port} of task {spec.id} is not there: {source.url_of(key)}. Put it there."
            ) from error


def stage_out(spec: TaskSpec, folder: Path, store: Store) -> None:
    """Stores the outputs. Raises InvalidOutput for one that the command did not make, with nothing stored."""
    paths = {port: _path(folder, "OUTPUT", port, place) for port, place in spec.outputs.items()}
    absent = [port for port, path in paths.items() if not path.is_file()]
    if absent:
        words = ", ".join(f"$OUTPUT_{_word(port)}" for port in absent)
        raise InvalidOutput(f"Task {spec.id} ended with 0 and did not write {words}. Have its command write it.")
    for port, place in spec.outputs.items():
        target, key = _located(store, place)
        target.put_file(key, paths[port])


def _located(store: Store, place: str) -> tuple[Store, str]:
    if "://" not in place and not place.startswith("/"):
        return store, place
    base, _, name = place.rpartition("/")
    return store.beside(base or "/"), name


def _path(folder: Path, kind: str, port: str, place: str) -> Path:
    # The name keeps its suffix, by which many tools know what a file is; the port keeps names apart.
    return folder / kind.lower() / _word(port) / os.path.basename(place)


def _word(port: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", port).upper()


def made_for(spec: TaskSpec, folder: Path) -> Mapping[str, str]:
    """Makes the folders of the outputs and returns the variables."""
    for port, place in spec.outputs.items():
        _path(folder, "OUTPUT", port, place).parent.mkdir(parents=True, exist_ok=True)
    return variables(spec, folder)
