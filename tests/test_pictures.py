"""The pictures of the docs: the script still makes them, none is blank, and those that the docs show are there."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from benchmarks.browser import Browser
from scripts.pictures import FOLDER, MOST_BYTES, MOST_BYTES_OF_ALL, make_pictures

ROOT = FOLDER.parent.parent
#: The number of colours of a picture, of every second pixel in each direction.
COLOURS = """(async () => {
  const image = new Image();
  image.src = "data:image/png;base64,%s";
  await image.decode();
  const canvas = new OffscreenCanvas(image.width >> 1, image.height >> 1), context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const data = new Uint32Array(context.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  return new Set(data).size;
})()"""


@pytest.mark.repository
def test_the_docs_show_every_picture_and_each_is_small() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    shown = {Path(name).name for page in pages for name in re.findall(r"pictures/([\w-]+\.png)", page.read_text())}
    sizes = {file.name: file.stat().st_size for file in FOLDER.iterdir()}
    assert shown == set(sizes)
    assert max(sizes.values()) <= MOST_BYTES
    assert sum(sizes.values()) <= MOST_BYTES_OF_ALL


@pytest.mark.browser
@pytest.mark.engine
@pytest.mark.slow
def test_the_script_makes_them_all_and_none_is_blank(tmp_path: Path) -> None:
    files = make_pictures(tmp_path / "pictures")
    assert sorted(file.name for file in files) == sorted(file.name for file in FOLDER.iterdir())
    (tmp_path / "browser").mkdir()
    with Browser(tmp_path / "browser") as browser:
        browser.open("about:blank")
        colours = {file.name: browser.ask(COLOURS % base64.b64encode(file.read_bytes()).decode()) for file in files}
    assert min(colours.values()) > 50, colours
    assert max(file.stat().st_size for file in files) <= MOST_BYTES
