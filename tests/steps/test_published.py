"""The table of transcripts as other steps read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_pipeline import MissingInput
from steps.published import TRANSCRIPT_COLUMNS, TranscriptRow, transcripts

_CELLS = ("HLA_A.1", "1500", "HLA_A", "HLA-A", "6", "+", "protein_coding")


def _table(folder: Path, columns: tuple[str, ...], *rows: tuple[str, ...]) -> Path:
    path = folder / "transcripts.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in (columns, *rows)))
    return path


def test_rows_come_by_the_tools_id_and_know_the_published_ones(tmp_path: Path) -> None:
    rows = transcripts(_table(tmp_path, TRANSCRIPT_COLUMNS, (*_CELLS, "HLA-A.1", "HLA-A")))
    assert rows == {
        "HLA_A.1": TranscriptRow(
            transcript_id="HLA_A.1",
            length=1500,
            gene_id="HLA_A",
            gene_name="HLA-A",
            chromosome="6",
            strand="+",
            biotype="protein_coding",
            published_id="HLA-A.1",
            published_gene_id="HLA-A",
        )
    }


def test_a_table_of_an_earlier_version_has_the_tools_ids_alone(tmp_path: Path) -> None:
    row = transcripts(_table(tmp_path, TRANSCRIPT_COLUMNS[:-2], _CELLS))["HLA_A.1"]
    assert (row.published_id, row.published_gene_id) == ("HLA_A.1", "HLA_A")


@pytest.mark.parametrize(
    ("columns", "row", "words"),
    [
        (("sample",), ("S1",), "has other columns"),
        (TRANSCRIPT_COLUMNS, _CELLS, "cut off or broken at line 2"),
        (TRANSCRIPT_COLUMNS[:-2], ("T", "long", *_CELLS[2:]), "cut off or broken at line 2"),
    ],
)
def test_another_table_is_refused(tmp_path: Path, columns: tuple[str, ...], row: tuple[str, ...], words: str) -> None:
    with pytest.raises(MissingInput, match=words):
        transcripts(_table(tmp_path, columns, row))
