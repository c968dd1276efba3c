"""Steps of samples, parts and groups, and a gather: what a test of all of them runs."""

from __future__ import annotations

from batch_pipeline import Column, Input, Job, Output, Scope, Step, WorkflowTask


class Copy(Step):
    """Copies the text."""

    text = Input()
    copy = Output("{sample}.txt")

    command = "cat {text} > {copy}"


class Part(Step):
    """Writes a part's name; fails for a text that asks for it."""

    scope = Scope.PART
    part_names = ("a", "b:1")
    text = Input()
    out = Output("{sample}.part")

    def run(self, job: Job) -> None:
        """One line."""
        if f"fail {job.part}" in job.input("text").read_text():
            raise RuntimeError("as it was told")
        job.output("out").write_text(f"{job.sample} {job.part}\n")


class Shared(Step):
    """A script over the parts of a column."""

    scope = Scope.PART
    part_column = "lanes"
    text = Input()
    out = Output("lane.txt")

    command = "echo {sample} {part} > {out}"


class Join(Step):
    """Joins the parts of a sample, and its lanes."""

    parts = Input()
    lanes = Input()
    joined = Output("{sample}.txt")

    command = "cat {parts} {lanes} > {joined}"


class Pair(Step):
    """Reads the samples of a patient by role."""

    scope = Scope.GROUP
    group_by = "patient"
    role_column = "status"
    tumour = Input(role="tumour")
    normal = Input(role="normal", optional=True)
    age: str = Column("age")
    pair = Output("{sample}.txt")

    def run(self, job: Job) -> None:
        """Who is what, and the ages."""
        members = [*job.gathered("tumour"), "-", *job.gathered("normal")]
        ages = [values["age"] for values in job.gathered_columns.values()]
        job.output("pair").write_text(f"{job.group}: {' '.join(members)} {' '.join(ages)}\n")


class Share(Step):
    """A step of the samples that reads its patient's result."""

    pair = Input()
    out = Output("{sample}.txt")

    command = "(echo {sample}; cat {pair}) > {out}"


class All(Step):
    """Gathers the patients."""

    scope = Scope.COHORT
    pairs = Input()
    all = Output("all.txt")

    command = "cat {pairs} > {all}"


class Members(WorkflowTask):
    """Samples, parts, groups and all."""

    def workflow(self) -> None:
        """Copy -> parts and lanes -> join -> pair -> share and all."""
        copy, part, lane = self.new_task("copy", Copy), self.new_task("part", Part), self.new_task("lane", Shared)
        join, pair, share = self.new_task("join", Join), self.new_task("pair", Pair), self.new_task("share", Share)
        everything = self.new_task("all", All)
        copy.in_text = self.source("{sample}.txt")
        part.in_text = copy.out_copy
        lane.in_text = copy.out_copy
        join.in_parts = part.out_out
        join.in_lanes = lane.out_out
        pair.in_tumour = join.out_joined
        pair.in_normal = join.out_joined
        share.in_pair = pair.out_pair
        everything.in_pairs = pair.out_pair


if __name__ == "__main__":
    Members.main()
