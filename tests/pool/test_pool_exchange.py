"""Import and export of a pool: PyAnamo's and PiCaS's own examples, tables, records, and all that may be wrong."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import tracemalloc
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.pool.base import Filter, PoolStore, Settlement
from batch_pipeline.pool.files.documents import documents_of
from batch_pipeline.pool.files.exchange import (
    ExportFormat,
    Format,
    ImportReport,
    Reading,
    export_file,
    guessed,
    guessed_export,
    import_file,
    on_disk,
)
from batch_pipeline.pool.files.writing import COLUMNS, tasks_of
from batch_pipeline.pool.stores.memory import MemoryStore
from batch_pipeline.pool.stores.sqlite.store import SqliteStore
from batch_pipeline.pool.task import Action, Task, TaskOutcome, TaskSpec, TaskState
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import InvalidTasks, InvalidUse

#: The examples of PyAnamo's manual, blank lines and the row that lacks its last field included.
SINGLE_ITEMS = """
itemID|TaskID|TaskScript
Seq_Test_1|Task_1|seq 1
Seq_Test_2|Task_1|seq 2
Sample1_chr1-3|Sample1|bash use_cases/example_docker/HaplotypeCaller Sample1 chr1,chr2,chr3
Level_1_Time|Level_1|bash SuperMarioPlayTimeOptimizer.sh 1 Easy,Normal,Hard
Level_2_Time|Level_2|bash SuperMarioPlayTimeOptimizer.sh 2 Easy,Normal,Hard

"""
NESTED_ITEMS = """
itemID|TaskID|TaskScript|TaskArgs
Seq_Tests|Seq_8_2_1|seq|8,2,1
Sample1|Sample1|bash use_cases/example_docker/HaplotypeCaller Sample_1|chr1,chr2,chr3
Level_1_Difficulty_Time|Level_1|bash SuperMarioPlayTimeOptimizer.sh 1|Easy,Normal,Hard
Level_2_Time|Level_2|bash SuperMarioPlayTimeOptimizer.sh 2 Easy,Normal,Hard

"""
QUICK_EXAMPLE = "echo 'this is token 1'\necho 'this is token 2'\necho 'this is token 3'\n"
FINE = TaskOutcome(end_reason=EndReason.FINISHED, exit_code=0, fields={"reads": "17"})
WRONG = TaskOutcome(
    end_reason=EndReason.STEP_FAILED, exit_code=3, error="exit code 3, said: „no“", log_key="pool/logs/b/1"
)


@pytest.fixture
def pool() -> PoolStore:
    return MemoryStore()


def taken(
    pool: PoolStore, folder: Path, text: str, form: Format | None = None, *, name: str = "tasks.txt", **how: Any
) -> ImportReport:
    """Imports a text."""
    path = folder / name
    path.write_text(text)
    return import_file(pool, path, Reading(format=form or guessed(path), **how), now_ms=1)


def specs(pool: PoolStore) -> dict[str, TaskSpec]:
    return {task.id: task.spec for task in tasks_of(pool, Filter())}


def problems(pool: PoolStore, folder: Path, text: str, form: Format | None = None, **how: Any) -> list[str]:
    """What an import complains about, line by line."""
    with pytest.raises(InvalidTasks) as caught:
        taken(pool, folder, text, form, **how)
    assert pool.counts().total == 0
    return caught.value.message.splitlines()


# PyAnamo.


def test_pyanamos_single_items(pool: PoolStore, tmp_path: Path) -> None:
    report = taken(pool, tmp_path, SINGLE_ITEMS)
    assert (report.tasks, report.report and report.report.added) == (5, 5)
    found = specs(pool)
    assert list(found) == ["Seq_Test_1", "Seq_Test_2", "Sample1_chr1-3", "Level_1_Time", "Level_2_Time"]
    assert found["Seq_Test_2"] == TaskSpec(
        id="Seq_Test_2", command=("seq", "2"), environment={"PYANAMO_TASK_ID": "Task_1"}
    )


def test_pyanamos_nested_items_become_a_task_an_argument(pool: PoolStore, tmp_path: Path) -> None:
    taken(pool, tmp_path, NESTED_ITEMS)
    found = specs(pool)
    assert [found[f"Seq_Tests/Task_{n}"].command for n in range(3)] == [("seq", "8"), ("seq", "2"), ("seq", "1")]
    assert found["Sample1/Task_1"].command[-1] == "chr2"
    assert found["Level_2_Time"].command[-1] == "Easy,Normal,Hard"
    assert {nest.parent: nest.size for nest in pool.nests()} == {
        "Seq_Tests": 3,
        "Sample1": 3,
        "Level_1_Difficulty_Time": 3,
    }


def test_both_examples_go_into_one_pool(pool: PoolStore, tmp_path: Path) -> None:
    taken(pool, tmp_path, SINGLE_ITEMS)
    again = taken(pool, tmp_path, NESTED_ITEMS).report
    assert again is not None
    assert (again.added, again.unchanged, again.differing) == (9, 1, 0)


def test_other_delimiters(pool: PoolStore, tmp_path: Path) -> None:
    text = "itemID\tTaskScript\tTaskArgs\na\techo x|y\t1;2\n"
    taken(pool, tmp_path, text, Format.PYANAMO, delimiter="\\t", nested_delimiter=";")
    assert specs(pool)["a/Task_1"].shell == "echo x|y 2"


@pytest.mark.parametrize(
    ("script", "asked"),
    [
        ("bash -c 'exit 3'", {"command": ("bash", "-c", "exit 3")}),
        ("${PYANAMO}/run.sh  a", {"shell": "${PYANAMO}/run.sh  a"}),
        ("run.sh > out", {"shell": "run.sh > out"}),
        ("A=1 run.sh", {"shell": "A=1 run.sh"}),
        ("run.sh  'a b' c\\ d", {"command": ("run.sh", "a b", "c d")}),
    ],
)
def test_a_script_means_what_a_shell_would_make_of_it(
    pool: PoolStore, tmp_path: Path, script: str, asked: Mapping[str, Any]
) -> None:
    """PyAnamo split at every blank, so that quotes became part of the words."""
    taken(pool, tmp_path, f"itemID|TaskScript\nt|{script}\n", Format.PYANAMO)
    assert specs(pool)["t"] == TaskSpec(id="t", **asked)


def test_importing_again_changes_nothing_that_runs_or_is_done(pool: PoolStore, tmp_path: Path) -> None:
    """PyAnamo's import put a locked or done item back to be done."""
    taken(pool, tmp_path, SINGLE_ITEMS)
    first, second = pool.claim("one", 2, lease_ms=60_000, now_ms=2)
    pool.settle([Settlement(claim=first, outcome=FINE)], now_ms=3)
    before = list(tasks_of(pool, Filter()))
    report = taken(pool, tmp_path, SINGLE_ITEMS + "New|New|true\n").report
    assert report is not None
    assert (report.added, report.unchanged) == (1, 5)
    assert list(tasks_of(pool, Filter()))[:5] == before
    assert [pool.get(held.id) for held in (first, second)] == before[:2]


def test_a_task_that_asks_for_something_else_now_is_told_and_left_alone(pool: PoolStore, tmp_path: Path) -> None:
    taken(pool, tmp_path, SINGLE_ITEMS)
    report = taken(pool, tmp_path, SINGLE_ITEMS.replace("seq 2", "seq 3")).report
    assert report is not None
    assert (report.unchanged, report.differing, report.differing_ids) == (4, 1, ("Seq_Test_2",))
    assert specs(pool)["Seq_Test_2"].command == ("seq", "2")


def test_all_that_is_wrong_is_told_at_once_with_its_lines(pool: PoolStore, tmp_path: Path) -> None:
    text = (
        "itemID|TaskID|TaskScript\n"  # 1
        "fine|x|true\n"
        "bad name|x|true\n"
        "none|x|\n"
        "quote|x|echo 'a\n"  # 5
        "four|x|true|1|2\n"
        "|x|true\n"
        "fine|x|true\n"
        "fine|x|false\n"
    )
    said = problems(pool, tmp_path, text)
    assert said[0].endswith("tasks.txt has 6 problems; nothing was imported.")
    assert [line.split(":")[0].strip() for line in said[1:]] == [f"line {n}" for n in (3, 4, 5, 6, 7, 9)]
    words = ("rule", "TaskScript", "quotation", "--delimiter", "no id", "line 2 too")
    for line, word in zip(said[1:], words, strict=True):
        assert word in line


def test_of_very_many_problems_the_first_are_told_and_the_rest_counted(pool: PoolStore, tmp_path: Path) -> None:
    said = problems(pool, tmp_path, "itemID|TaskScript\n" + "bad name|true\n" * 250, Format.PYANAMO)
    assert "250 problems" in said[0]
    assert len(said) == 102
    assert said[-1].strip() == "and 150 more"


def test_a_header_that_is_none_is_shown_what_it_must_be(pool: PoolStore, tmp_path: Path) -> None:
    said = problems(pool, tmp_path, "sample|script\na|true\n", Format.PYANAMO)
    assert "line 1" in said[0]
    assert "itemID|TaskID|TaskScript|TaskArgs" in said[0]


# Tables and records.


def test_a_table_has_the_fields_of_a_task(pool: PoolStore, tmp_path: Path) -> None:
    text = (
        "id,command,shell,class,priority,after,time_limit_seconds,environment.MODE,inputs.reads,outputs.bam,most_attempts\n"
        'a,"align ""x y"" z",,big,5,,1.5,fast,SR/a.fq,out/a.bam,3\n'
        'b,,"echo $HOME, then",,,a c,,,,,\n'
        'c,"[""printf"", ""%s\\n""]",,,,,,,,,\n'
    )
    taken(pool, tmp_path, text, name="tasks.csv")
    assert specs(pool) == {
        "a": TaskSpec(
            id="a",
            command=("align", "x y", "z"),
            resource_class="big",
            priority=5,
            time_limit_seconds=1.5,
            environment={"MODE": "fast"},
            inputs={"reads": "SR/a.fq"},
            outputs={"bam": "out/a.bam"},
            most_attempts=3,
        ),
        "b": TaskSpec(id="b", shell="echo $HOME, then", after=("a", "c")),
        "c": TaskSpec(id="c", command=("printf", "%s\n")),
    }


def test_what_the_file_does_not_say_is_as_the_reading_says(pool: PoolStore, tmp_path: Path) -> None:
    defaults = {"resource_class": "small", "most_attempts": 3, "environment": {"A": "1", "B": "1"}}
    taken(pool, tmp_path, "id,shell,class,environment.B\na,x,,\nb,x,big,2\n", Format.CSV, defaults=defaults)
    found = specs(pool)
    assert [(spec.resource_class, spec.most_attempts) for spec in found.values()] == [("small", 3), ("big", 3)]
    assert [spec.environment["B"] for spec in found.values()] == ["1", "2"]


def test_a_row_over_several_lines_has_the_number_of_its_first(pool: PoolStore, tmp_path: Path) -> None:
    text = 'id,shell,priority\na,"one\ntwo\n",1\nb,x,high\n'
    said = problems(pool, tmp_path, text, Format.CSV)
    assert said[1].strip() == "line 5: its priority is 'high'; it must be a whole number."


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("id,shell,colour", "unknown columns: colour"),
        ("name,shell", "unknown columns: name"),
        ("shell,priority", "no column id"),
        ("id,id,shell", "one twice"),
        ("id,environment,environment.A", "one twice"),
    ],
)
def test_unknown_columns(pool: PoolStore, tmp_path: Path, header: str, words: str) -> None:
    said = problems(pool, tmp_path, f"{header}\na,b,c\n", Format.CSV)
    assert words in said[0]


def test_an_empty_table_has_no_header(pool: PoolStore, tmp_path: Path) -> None:
    assert "no header" in problems(pool, tmp_path, "\n", Format.CSV)[0]


def test_records_and_all_that_may_be_wrong_with_them(pool: PoolStore, tmp_path: Path) -> None:
    fine = {"id": "a", "command": ["x", "1"], "class": "big", "environment": {"N": "1"}, "after": ["z"], "format": 1}
    taken(pool, tmp_path, f"{json.dumps(fine)}\n\n", name="tasks.jsonl")
    assert specs(pool)["a"] == TaskSpec(
        id="a", command=("x", "1"), resource_class="big", environment={"N": "1"}, after=("z",)
    )
    wrong = [
        "{",
        "[]",
        '{"shell": "x"}',
        '{"id": "c", "shell": "x", "colour": 1}',
        '{"id": "d", "shell": "x", "priority": 1.5}',
        '{"id": "e", "shell": "x", "environment": {"N": 1}}',
        '{"id": "f", "shell": "x", "environment": {"A=B": "1"}}',
        '{"id": "g", "shell": "x", "time_limit_seconds": Infinity}',
        '{"id": "h", "shell": "x", "inputs": {"../up": "k"}}',
        '{"id": "i", "shell": "\\ud800"}',
        '{"id": "j", "shell": "x", "priority": 99999999999999999999}',
        '{"id": "k", "shell": "x", "command": ["y"]}',
        '{"id": "l", "shell": "x", "most_attempts": 0}',
    ]
    said = problems(MemoryStore(), tmp_path, "\n".join(wrong), Format.JSONL)
    assert [line.split(":")[0].strip() for line in said[1:]] == [f"line {n}" for n in range(1, len(wrong) + 1)]


def test_a_file_that_is_no_text_is_told_by_its_line(pool: PoolStore, tmp_path: Path) -> None:
    path = tmp_path / "tasks.csv"
    path.write_bytes(b"id,shell\na,caf\xe9\n")
    with pytest.raises(InvalidTasks, match=r"line 2: it is no text in UTF-8"):
        import_file(pool, path, Reading(format=Format.CSV), now_ms=1)


def test_tasks_that_wait_for_one_another_are_told(pool: PoolStore, tmp_path: Path) -> None:
    text = "id,shell,after\na,x,\nb,x,a d\nc,x,b\nd,x,c\n"
    said = problems(pool, tmp_path, text, Format.CSV)
    assert "in a circle" in said[1]
    assert {"b", "c", "d"} <= set(said[1].replace(".", " ").split())


def test_a_dry_run_looks_and_adds_nothing(pool: PoolStore, tmp_path: Path) -> None:
    path = tmp_path / "tasks.txt"
    path.write_text(NESTED_ITEMS)
    report = import_file(pool, path, Reading(format=Format.PYANAMO), now_ms=1, dry_run=True)
    assert (report.tasks, report.report, pool.counts().total) == (10, None, 0)


def test_a_stream_is_read_twice_through_a_file(pool: PoolStore) -> None:
    with on_disk(io.BytesIO(SINGLE_ITEMS.encode())) as path:
        report = import_file(pool, path, Reading(format=Format.PYANAMO), now_ms=1, display_name="standard input")
    assert report.tasks == 5
    assert not path.exists()


def test_a_file_that_is_not_there(pool: PoolStore, tmp_path: Path) -> None:
    for act in (guessed, lambda path: import_file(pool, path, Reading(format=Format.CSV), now_ms=1)):
        with pytest.raises(InvalidUse, match="cannot be read"):
            act(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "text", "form"),
    [
        ("a.txt", SINGLE_ITEMS, Format.PYANAMO),
        ("a.CSV", "id,shell\n", Format.CSV),
        ("a.csv", "itemID,TaskScript\n", Format.PYANAMO),
        ("a.tsv", "", Format.TSV),
        ("a.ndjson", "", Format.JSONL),
        ("a.json", "[]", Format.PICAS),
    ],
)
def test_formats_are_told_by_name_or_header(tmp_path: Path, name: str, text: str, form: Format) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert guessed(path) is form


def test_what_tells_nothing_must_be_named(tmp_path: Path) -> None:
    path = tmp_path / "quickExample.txt"
    path.write_text(QUICK_EXAMPLE)
    with pytest.raises(InvalidUse, match="--format: pyanamo, csv, tsv, jsonl, picas, lines"):
        guessed(path)
    with pytest.raises(InvalidUse, match="--format: csv, tsv, jsonl, sqlite"):
        guessed_export(path)
    assert guessed_export(tmp_path / "a.db") is ExportFormat.SQLITE


# PiCaS.


def test_picas_quick_example(pool: PoolStore, tmp_path: Path) -> None:
    taken(pool, tmp_path, QUICK_EXAMPLE, Format.LINES)
    assert specs(pool)["token_2"] == TaskSpec(id="token_2", shell="echo 'this is token 3'")
    # PiCaS named tokens by the number of documents, so that a second push made them all again.
    again = taken(pool, tmp_path, QUICK_EXAMPLE + "echo more\n", Format.LINES).report
    assert again is not None
    assert (again.added, again.unchanged) == (1, 3)


def token(number: int, **fields: Any) -> dict[str, Any]:
    return {"_id": f"token_{number}", "_rev": "1-a", "type": "token", "lock": 0, "done": 0, "input": "x"} | fields


def test_picas_tokens_keep_what_their_users_gave_them(pool: PoolStore, tmp_path: Path) -> None:
    tokens = [token(0, cores=4, gpu=False), token(1, input="echo $SLURM_CPUS_PER_TASK", priority=3, scrub_count=2)]
    taken(pool, tmp_path, json.dumps(tokens), name="tokens.json")
    assert specs(pool) == {
        "token_0": TaskSpec(
            id="token_0",
            shell="x",
            resource_class="cores-4",
            environment={"TOKEN_CORES": "4", "TOKEN_GPU": "False"},
        ),
        "token_1": TaskSpec(id="token_1", shell="echo $SLURM_CPUS_PER_TASK", priority=3),
    }


def test_inputs_of_picas_for_a_program(pool: PoolStore, tmp_path: Path) -> None:
    text = json.dumps([token(0, input="-q 0.03 -d 5")])
    taken(pool, tmp_path, text, Format.PICAS, program=("./process_task.sh",))
    assert specs(pool)["token_0"].command == ("./process_task.sh", "-q 0.03 -d 5", "token_0")


def test_what_is_done_or_held_in_picas_is_passed_over(pool: PoolStore, tmp_path: Path) -> None:
    tokens = [
        token(0),
        token(1, lock=1_700_000_000),
        token(2, lock=1_700_000_000, done=1_700_000_001, exit_code=0),
        token(3, lock=99, done=99, exit_code=""),
        token(4, lock=1_700_000_000, done=1_700_000_001, exit_code=7),
        # What PiCaS's own class makes of it, and no view of PiCaS shows.
        token(5, type="task"),
        # In no view of PiCaS either, after an error and a scrub.
        token(6, lock=0, done=99),
        {"_id": "_design/Monitor", "views": {}},
        {"_id": "log", "type": "log"},
    ]
    report = taken(pool, tmp_path, json.dumps({"docs": tokens}), Format.PICAS)
    assert sorted(specs(pool)) == ["token_0", "token_3", "token_4", "token_5", "token_6"]
    assert report.passed_over == {"held in PiCaS": 1, "done in PiCaS": 1, "no token": 2}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([token(n) for n in range(3)]),
        json.dumps([token(n) for n in range(3)], indent=2),
        json.dumps({"docs": [token(n) for n in range(3)]}),
        json.dumps({"total_rows": 3, "offset": 0, "rows": [{"id": "x", "key": n, "doc": token(n)} for n in range(3)]}),
        "\n".join(json.dumps(token(n)) for n in range(3)),
        "\ufeff" + json.dumps([token(n) for n in range(3)]),
    ],
    ids=["list", "indented", "docs", "rows", "lines", "mark"],
)
def test_documents_in_all_their_shapes(pool: PoolStore, tmp_path: Path, text: str) -> None:
    taken(pool, tmp_path, text, Format.PICAS)
    assert sorted(specs(pool)) == ["token_0", "token_1", "token_2"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[{"_id": "a", "input": "x"},\n{"_id": "b" "input": "x"}]', 2),
        ('[{"_id": "a", "input": "x"},\n{"_id": "b", "in', 2),
        ('[{"_id": "a", "input": "x"}\n', 2),
        ("no JSON", 1),
    ],
)
def test_documents_that_are_none_or_cut_off(pool: PoolStore, tmp_path: Path, text: str, line: int) -> None:
    assert f"line {line}:" in problems(pool, tmp_path, text, Format.PICAS)[0]


def test_a_view_without_documents_and_tokens_without_input(pool: PoolStore, tmp_path: Path) -> None:
    rows = {"rows": [{"id": "a", "key": "a", "value": "a"}, {"doc": token(1, input={"a": 1})}, 5]}
    said = problems(pool, tmp_path, json.dumps(rows), Format.PICAS)
    assert ["include_docs=true" in said[1], "token_1" in said[2], "no document" in said[3]] == [True] * 3


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_documents_are_the_same_in_whatever_pieces_they_come(size: int) -> None:
    documents = [token(n, input='a "quoted" \\ \u00e9 [}] text' * n, true=True) for n in range(30)]
    text = json.dumps({"docs": documents}, indent=1)
    file = io.StringIO(text)
    first = True

    def read(_: int) -> str:
        nonlocal first
        # What stands before the first document comes in one piece.
        count, first = (20, False) if first else (size, False)
        return file.read(count)

    found = list(documents_of(read))
    assert [document for _, document in found] == documents
    lines = text.splitlines()
    assert all(lines[number - 1].strip() == "{" for number, _ in found)


# Export.


@pytest.fixture
def drained(pool: PoolStore) -> PoolStore:
    pool.add(
        [
            TaskSpec(id="a", command=("x", "1"), environment={"K": "v, w"}, parent="p", priority=-2),
            TaskSpec(id="b", shell="echo\n„x“\t;", resource_class="big", most_attempts=1, time_limit_seconds=2.5),
            TaskSpec(id="c", command=("x",), after=("a", "absent"), inputs={"r": "k"}, outputs={"o": "s3://b/k"}),
        ],
        now_ms=1_700_000_000_000,
    )
    held = {claim.id: claim for claim in pool.claim("one", 2, lease_ms=5, now_ms=1_700_000_001_000)}
    ends = [Settlement(claim=held["a"], outcome=FINE), Settlement(claim=held["b"], outcome=WRONG)]
    pool.settle(ends, now_ms=1_700_000_002_500)
    return pool


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_what_is_exported_can_be_imported(drained: PoolStore, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert export_file(drained, path, guessed_export(path)) == 3
    other = MemoryStore()
    import_file(other, path, Reading(format=guessed(path)), now_ms=9)
    assert specs(other) == specs(drained)
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_a_table_tells_how_tasks_stand(drained: PoolStore, tmp_path: Path) -> None:
    export_file(drained, tmp_path / "a.csv", ExportFormat.CSV)
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert list(rows["a"]) == list(COLUMNS)
    told = {name: rows["b"][name] for name in ("state", "exit_code", "error", "end_reason", "ended_at", "owner")}
    assert told == {
        "state": "failed",
        "exit_code": "3",
        "error": WRONG.error,
        "end_reason": EndReason.STEP_FAILED.value,
        "ended_at": "2023-11-14T22:13:22.500Z",
        "owner": "one",
    }
    assert json.loads(rows["a"]["results"]) == {"reads": "17"}
    assert rows["c"]["reason"] == "absent is not in the pool"


def test_a_database_can_be_asked(drained: PoolStore, tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    path.write_text("what was there before")
    drained.move(Filter(ids=frozenset({"b"})), Action.DELETE, now_ms=1_700_000_003_000, act="x")
    export_file(drained, path, ExportFormat.SQLITE)
    with closing(sqlite3.connect(path)) as database:
        states = dict(database.execute("SELECT id, state FROM task").fetchall())
        results = database.execute("SELECT * FROM result").fetchall()
        story = [move for (move,) in database.execute("SELECT move FROM event WHERE task_id = 'b' ORDER BY number")]
    assert states == {"a": "done", "c": "waiting"}
    assert results == [("a", "reads", "17")]
    assert story == ["added", "claimed", "failed", "deleted"]


def test_an_export_of_some(drained: PoolStore, tmp_path: Path) -> None:
    wanted = Filter(states=frozenset({TaskState.FAILED}))
    assert export_file(drained, tmp_path / "a.jsonl", ExportFormat.JSONL, wanted=wanted) == 1
    assert export_file(drained, tmp_path / "a.db", ExportFormat.SQLITE, wanted=wanted) == 1
    with closing(sqlite3.connect(tmp_path / "a.db")) as database:
        assert {name for (name,) in database.execute("SELECT task_id FROM event")} == {"b"}


def test_an_export_that_fails_leaves_the_old_file(drained: PoolStore, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")

    class Broken(MemoryStore):
        def find(self, wanted: Filter, *, limit: int = 1000, cursor: str | None = None) -> Any:
            raise OSError(28, "No space left on device")

    with pytest.raises(InvalidUse, match="No space left"):
        export_file(Broken(), path, ExportFormat.CSV)
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.slow
def test_a_large_import_and_export_take_little_memory(tmp_path: Path) -> None:
    source = tmp_path / "tasks.txt"
    count = 6_000
    with source.open("w") as file:
        file.write("itemID|TaskID|TaskScript\n")
        file.writelines(f"Sample{n:06}|S|bash caller.sh Sample{n} {'chr' * 10}\n" for n in range(count))
    with closing(SqliteStore(tmp_path / "pool.sqlite")) as pool:
        tracemalloc.start()
        try:
            report = import_file(pool, source, Reading(format=Format.PYANAMO), now_ms=1)
            export_file(pool, tmp_path / "out.csv", ExportFormat.CSV)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert report.report is not None
        assert report.report.added == count
    # All tasks at once would be more than twice as much.
    assert peak < 4_000_000


def test_pages_are_walked_to_the_last(tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "pool.sqlite")) as pool:
        pool.add((TaskSpec(id=f"t{n}", shell="x") for n in range(2500)), now_ms=1)
        found: Iterator[Task] = tasks_of(pool, Filter())
        assert [task.id for task in found] == [f"t{n}" for n in range(2500)]


def test_a_default_that_breaks_a_rule_is_told(pool: PoolStore, tmp_path: Path) -> None:
    said = problems(pool, tmp_path, "true\n", Format.LINES, defaults={"resource_class": "no class"})
    assert "line 1: class 'no class'" in said[1]
    assert replace(Reading(format=Format.LINES), prefix="t").prefix == "t"
