"""A cell from its manifest to its receipt."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.container.conftest import Workshop


def test_script_cell(workshop: Workshop) -> None:
    environment = workshop.script()
    assert workshop.live(environment) == 0, workshop.log
    receipt = workshop.receipt()
    assert receipt
    print(receipt)
    assert workshop.result() == b"data\n"


def test_python_cell(workshop: Workshop) -> None:
    environment = workshop.python("""
class S(Step):
    y = Output("y")
    def run(self, job):
        job.output("y").write_text("hello " + job.sample)
        job.note(n=1); print("hi")
    def check(self, job): job.note(checked=True)
""")
    assert workshop.live(environment) == 0, workshop.log
    receipt = workshop.receipt()
    assert receipt
    print(receipt, workshop.stored_log())
    assert workshop.result() == b"hello s1"
