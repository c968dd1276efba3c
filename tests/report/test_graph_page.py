"""A drawn graph in a real browser: text stays inside its box, labels keep clear of each other, nothing is fetched."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.report.graph_svg import graph_svg
from main import Fusions

pytestmark = [pytest.mark.browser, pytest.mark.engine]

CHROMIUM = shutil.which("chromium") or "chromium"
MEASURE = """
const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
const groups = [...document.querySelectorAll("g")].map(g => ({
    frame: box(g.querySelector("rect, path:last-of-type")), texts: [...g.querySelectorAll("text")].map(box)}));
const labels = [...document.querySelectorAll("svg > text")].map(box);
document.body.dataset.measured = JSON.stringify(
    {groups, labels, colour: getComputedStyle(document.querySelector("text")).fill});
"""


def measured(svg: str, folder: Path, *, dark: bool) -> Any:
    policy = "default-src 'none'; script-src 'nonce-measure'; style-src 'nonce-measure'"
    page = (
        f'<!DOCTYPE html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<style nonce="measure">@media (prefers-color-scheme: dark) { body { color: #eee; background: #111 } }</style>'
        f'<body>{svg}<script nonce="measure">{MEASURE}</script></body>'
    )
    (folder / "page.html").write_text(page)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run([*command, "--dump-dom", (folder / "page.html").as_uri()], capture_output=True, text=True)
    attribute = re.search(r'data-measured="([^"]*)"', done.stdout)
    assert attribute, done.stderr
    return json.loads(html.unescape(attribute[1]))


@pytest.mark.parametrize("dark", [False, True])
def test_texts_fit_and_follow_the_page(tmp_path: Path, dark: bool) -> None:
    states = {"picard": {"done": 1_198_000, "failed": 2, "running": 3}, "cohort": {"waiting": 1}}
    result = measured(graph_svg(Graph.of(Fusions), states), tmp_path, dark=dark)

    for group in result["groups"]:
        left, _, right, bottom = group["frame"]
        for text in group["texts"]:
            assert left <= text[0]
            assert text[2] <= right
            assert text[3] <= bottom
    rows = sorted(result["labels"], key=lambda label: (label[1], label[0]))
    for one, other in pairwise(rows):
        assert one[1] != other[1] or one[2] <= other[0], "two labels of a row overlap"
    assert result["colour"] == ("rgb(238, 238, 238)" if dark else "rgb(0, 0, 0)")
