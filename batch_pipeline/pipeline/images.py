"""Which image each step runs in, as `deploy images` pinned it in `dockerfiles/images.json`, beside the pipeline's file.

An image is named by its digest, which is part of the fingerprint: an image that was built anew with another tool makes
its step's results, and what follows from them, outdated, and no others. The file belongs into version control.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.wire.errors import InvalidPipeline

FOLDER: Final = "dockerfiles"
FILE: Final = f"{FOLDER}/images.json"
FORMAT: Final = 1
#: The image of a step that has no folder of its own.
BASE: Final = "base"


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One image as it was last built."""

    #: With its registry, by digest: `registry/path/picard@sha256:…`.
    image: str
    #: Digest of everything that it was built from.
    inputs: str


def read_pins(root: Path) -> Mapping[str, Pin]:
    """Step (or `base`) -> its image; empty when none was built. Raises InvalidPipeline for a file that is damaged."""
    path = root / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"it has format {content['format']!r}")
        return {name: Pin(**pin) for name, pin in content["images"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidPipeline(
            f"{path} cannot be read ({error}). Take it from version control, or remove it and run `deploy images`."
        ) from error


def pins_text(pins: Mapping[str, Pin]) -> str:
    """The file's content."""
    images = {name: asdict(pins[name]) for name in sorted(pins)}
    return json.dumps({"format": FORMAT, "images": images}, indent=2) + "\n"


def with_image(graph: Graph, image: str) -> Graph:
    """The graph with all steps in one image, whatever their classes name: where pilots do their cells."""
    return replace(graph, nodes=tuple(replace(node, image=image) for node in graph))


def with_pinned_images(graph: Graph) -> Graph:
    """The graph with the pinned image of each step whose class names none. Raises InvalidPipeline."""
    pins = read_pins(graph.root)
    nodes = []
    for node in graph:
        pin = pins.get(node.name) or pins.get(BASE)
        nodes.append(replace(node, image=pin.image) if pin and not node.image else node)
    return replace(graph, nodes=tuple(nodes))
