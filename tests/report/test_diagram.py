"""The diagram of a pipeline: its nodes and edges, and the three ways in which it is written."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from batch_pipeline import Input, Output, Param, Reference, Scope, Step, WorkflowTask
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.report.diagram import Diagram, NodeKind, diagram_of, diagram_text, dot, mermaid
from batch_pipeline.report.graph_svg import STATE_COLOURS, graph_svg, svg_file
from main import Fusions

HOSTILE = '</text><script>alert(1)</script> "{sample}" &amp; #35; \\n `x` ]) |é\x01'


class Align(Step):
    """Aligns reads."""

    image = "registry.example.org:5000/lab/bwa@sha256:" + "0123456789abcdef" * 4

    reads = Input()
    genome = Reference("genome.fa", "genome.fa.fai")
    bam = Output("{sample}.bam", "{sample}.bam.bai")
    log = Output("{sample}.log")


class Trim(Step):
    """Trims reads."""

    least: int = Param(20)
    reads = Input()
    trimmed = Output("{sample}.trimmed.fq")


class Merge(Step):
    """Merges all."""

    scope = Scope.COHORT
    bam = Input()
    again = Input(optional=True)
    table = Output("table.tsv")


class Small(WorkflowTask):
    """Trims some samples, aligns all."""

    def workflow(self) -> None:
        trim = self.new_task("trim", Trim, when="least > 0")
        align, merge = self.new_task("align", Align), self.new_task("merge", Merge)
        raw = self.source(columns=("fastq_1", "fastq_2"))
        trim.in_reads = raw
        align.in_reads = trim.out_trimmed | raw
        merge.in_bam = align.out_bam


class Odd(Step):
    """Has names that mean something elsewhere."""

    text = Input()
    out = Output(HOSTILE)


class Hostile(WorkflowTask):
    """Names that Mermaid, DOT and XML would read in their own way."""

    def workflow(self) -> None:
        first, second = self.new_task("end", Odd), self.new_task("graph", Odd, when="fold == '\"<&'")
        first.in_text = self.source(HOSTILE, column='a|"b')
        second.in_text = first.out_out


def diagram(workflow: type[WorkflowTask] = Small, **more: object) -> Diagram:
    return diagram_of(Graph.of(workflow), **more)  # type: ignore[arg-type]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_nodes_are_sources_the_reference_steps_and_what_nobody_reads() -> None:
    made = diagram(reference="toy")

    assert [(node.kind, node.title, *node.lines) for node in made.nodes] == [
        (NodeKind.SOURCE, "columns fastq_1, fastq_2"),
        (NodeKind.SAMPLES, "trim", "each sample", "when least > 0"),
        (NodeKind.REFERENCE, "reference toy"),
        (NodeKind.SAMPLES, "align", "each sample", "bwa@sha256:0123456789ab"),
        (NodeKind.GATHER, "merge", "all samples"),
        (NodeKind.RESULT, "{sample}.log"),
        (NodeKind.RESULT, "table.tsv"),
    ]
    assert [(edge.tail, edge.head, edge.labels, edge.conditional) for edge in made.edges] == [
        ("source_1", "step_trim", ("reads",), False),
        ("step_trim", "step_align", ("trimmed → reads",), True),
        ("source_1", "step_align", ("reads",), True),
        ("reference", "step_align", ("genome",), False),
        ("step_align", "step_merge", ("bam",), False),
        ("step_align", "result_align", ("log",), False),
        ("step_merge", "result_merge", ("table",), False),
    ]


def test_a_source_without_files_is_left_out() -> None:
    titles = [node.title for node in diagram(Fusions).nodes]
    assert titles.count("column bam") == 2
    with_cram = Graph.of(Fusions, {"cram_reference": "grch38.fa"})
    assert "grch38.fa" in [node.title for node in diagram_of(with_cram).nodes]


def test_counts_of_cells_stand_in_all_forms() -> None:
    states = {"align": {"done": 1198, "failed": 2, "to run": 0}, "merge": {"waiting": 1}}
    made = diagram(states=states)

    assert "bwa@sha256#58;0123456789ab" not in mermaid(made), "a colon needs no escape"
    assert "<br/>1,198 done, 2 failed" in mermaid(made)
    assert "\\n1,198 done, 2 failed" in dot(made)
    svg = graph_svg(Graph.of(Small), states)
    assert "1,198 done, 2 failed" in texts(svg)
    assert svg.count(f'fill="{STATE_COLOURS["failed"]}"') == 1
    assert "to run" not in svg


def test_mermaid_is_a_flowchart() -> None:
    assert mermaid(diagram(reference="toy")) == (
        "flowchart TD\n"
        '    source_1[/"columns fastq_1, fastq_2"/]\n'
        '    step_trim[["trim<br/>each sample<br/>when least #62; 0"]]\n'
        '    reference[("reference toy")]\n'
        '    step_align[["align<br/>each sample<br/>bwa#64;sha256:0123456789ab"]]\n'
        '    step_merge["merge<br/>all samples"]\n'
        '    result_align(["{sample}.log"])\n'
        '    result_merge(["table.tsv"])\n'
        '    source_1 -->|"reads"| step_trim\n'
        '    step_trim -.->|"trimmed → reads"| step_align\n'
        '    source_1 -.->|"reads"| step_align\n'
        '    reference -->|"genome"| step_align\n'
        '    step_align -->|"bam"| step_merge\n'
        '    step_align -->|"log"| result_align\n'
        '    step_merge -->|"table"| result_merge\n'
    )


@pytest.mark.parametrize("form", ["mermaid", "dot", "svg"])
def test_a_name_is_text_whatever_it_holds(form: str) -> None:
    text = diagram_text(diagram(Hostile, states={"end": {"done": 3}}), form)

    assert "\x01" not in text
    if form == "mermaid":
        labels = re.findall(r'"(.*)"', text)
        assert labels
        assert not [label for label in labels if re.search(r'["`\\|]|#(?!\d+;)|<(?!br/>)', label)]
    elif form == "dot":
        # Between quotes there is nothing that ends them, and no entity of HTML.
        labels = re.findall(r'label="((?:[^"\\]|\\.)*)"', text)
        assert len(labels) == text.count("label=")
        assert not [label for label in labels if re.search(r"&(?!amp;)", label)]
        assert any("\\\\n" in label for label in labels), "a backslash of the name is no line's end"
    else:
        assert "<script" not in text
        assert any("</text><script>" in line for line in texts(text))


def test_svg_for_a_page_needs_no_exception_of_its_security_policy() -> None:
    svg = graph_svg(Graph.of(Hostile), {"end": {"done": 3}})
    assert not re.search(r"<style|<script|\sstyle=|\son\w+=|href|url\(", svg)
    assert 'role="img"' in svg
    assert "<desc" in svg


def test_an_svg_file_is_dark_for_who_prefers_that() -> None:
    svg = svg_file(diagram())
    ElementTree.fromstring(svg)
    assert svg.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<svg ')
    assert "@media(prefers-color-scheme:dark)" in svg
