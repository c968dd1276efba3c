"""What a scientist declares: ports, parameters, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from batch_pipeline.pipeline.step import Input, Output, Param, Parameter, Reference, Step
from batch_pipeline.wire.errors import InvalidConfig, InvalidPipeline


class Align(Step):
    """Aligns reads.

    Second line.
    """

    reads = Input()
    index = Reference("index.idx")
    bam = Output("{sample}.bam")
    rounds: int = Param(30, minimum=0, maximum=100)
    share: float = Param(0.5, minimum=0)
    strict: bool = Param(True)
    strand: str = Param("none", choices=("none", "fr", "rf"))


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("rounds", "7", 7),
        ("rounds", 7.0, 7),
        ("rounds", 0, 0),
        ("rounds", "100", 100),
        ("share", "1e-3", 0.001),
        ("share", 2, 2.0),
        ("strict", "no", False),
        ("strict", "TRUE", True),
        ("strict", 0, False),
        ("strand", "rf", "rf"),
    ],
)
def test_a_parameter_is_read_in_the_type_of_its_default(name: str, given: Any, value: Any) -> None:
    step = Align(**{name: given})
    assert getattr(step, name) == value
    assert type(getattr(step, name)) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        ("rounds", "many", "rounds must be of type int, not 'many'."),
        ("rounds", "3.7", "rounds must be of type int, not '3.7'."),
        ("rounds", 3.7, "rounds must be of type int, not 3.7."),
        ("rounds", float("inf"), "rounds must be of type int, not inf."),
        ("rounds", True, "rounds must be of type int, not True."),
        ("rounds", None, "rounds must be of type int, not None."),
        ("rounds", -1, "rounds must be at least 0, not -1."),
        ("rounds", "101", "rounds must be at most 100, not '101'."),
        ("share", "nan", "share must be of type float, not 'nan'."),
        ("share", "", "share must be of type float, not ''."),
        ("strict", "perhaps", "strict must be of type bool, not 'perhaps'."),
        ("strict", None, "strict must be of type bool, not None."),
        ("strand", "ff", "strand must be one of none, fr, rf, not 'ff'."),
        ("strand", None, "strand must be of type str, not None."),
        ("strand", 3.10, "strand must be of type str, not 3.1. Write it in quotes."),
        ("strand", True, "strand must be of type str, not True. Write it in quotes."),
        ("strand", "a\0b", r"strand must be of type str, not 'a\x00b'."),
        ("strand", "\udcff", r"strand must be of type str, not '\udcff'."),
    ],
)
def test_a_wrong_value_is_refused_with_its_rule(name: str, given: Any, sentence: str) -> None:
    with pytest.raises(InvalidConfig) as told:
        Align(**{name: given})
    assert told.value.message == sentence


def test_defaults_hold_where_nothing_is_given() -> None:
    assert dict(Align().params) == {"rounds": 30, "share": 0.5, "strict": True, "strand": "none"}


def test_an_unknown_parameter_lists_the_known_ones() -> None:
    with pytest.raises(InvalidConfig, match=r"Align has no parameter 'round'; it has: rounds, share, strand, strict\."):
        Align(round=3)


@pytest.mark.parametrize("default", [None, (1, 2), {}])
def test_a_default_of_no_readable_type_is_refused(default: object) -> None:
    with pytest.raises(InvalidPipeline, match="bool, int, float or str"):
        Param(default)


def test_a_default_that_breaks_its_own_rule_is_refused() -> None:
    with pytest.raises(InvalidPipeline, match=r"^A Param's default breaks its own rule: it must be one of b, not 'a'"):
        Param("a", choices=("b",))


def test_on_the_class_a_parameter_is_its_declaration() -> None:
    declared = Align.declared(Parameter)
    assert list(declared) == ["rounds", "share", "strict", "strand"]
    assert Align.rounds is declared["rounds"]


def test_a_subclass_adds_replaces_and_removes_what_its_base_declares() -> None:
    class Mapped(Align):
        extra = Input()
        rounds: int = Param(5)
        share = 0.25

    assert list(Mapped.declared(Input)) == ["reads", "extra"]
    assert Mapped().rounds == 5
    assert "share" not in Mapped.declared(Parameter)
    assert Mapped().share == 0.25
    assert Align().rounds == 30


@pytest.mark.parametrize("files", [(), ("genome.fa", "genome.fa.fai", "genome.fa")])
def test_a_reference_names_files_each_once(files: tuple[str, ...]) -> None:
    with pytest.raises(InvalidPipeline):
        Reference(*files)


@pytest.mark.parametrize(
    "files", [(), ("/etc/passwd",), ("../other.txt",), ("ok.txt", "a/../../b.txt"), ("a.txt", "b.txt", "./a.txt")]
)
def test_an_output_lies_in_the_working_directory(files: tuple[str, ...]) -> None:
    with pytest.raises(InvalidPipeline):
        Output(*files)


def test_a_step_without_run_or_script_says_so() -> None:
    with pytest.raises(NotImplementedError, match=r"Align has neither run\(\), nor a command, nor a script"):
        Align().run(None)  # type: ignore[arg-type]


def test_the_summary_is_the_first_line_of_the_docstring() -> None:
    assert Align.summary() == "Aligns reads."
