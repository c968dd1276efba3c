"""A step that looks words up in a reference, and the builder of that reference."""

from __future__ import annotations

from parts.index import Index, Lookup  # type: ignore[import-not-found]  # its folder is on the path when it is run

from batch_pipeline import WorkflowTask


class Indexed(WorkflowTask):
    """Looks words up."""

    reference_builder = Index

    def workflow(self) -> None:
        """One step."""
        lookup = self.new_task("lookup", Lookup)
        lookup.in_text = self.source("{sample}.txt")


if __name__ == "__main__":
    Indexed.main()
