"""Mutation testing of the modules that decide: `make mutants` prints each change to them that no test notices.

A mutant is one small change of the syntax tree: `<` for `<=`, a condition negated, a call left out. For each of them
the tests of its module run in a copy of the working tree, to the first that fails; a run that takes many times as long
as without the mutant counts as failed too. What survives is either no change (another way to write the same) or a
decision that no test holds.

(Of our own: mutmut rewrites functions only and takes one set of tests for all modules; cosmic-ray does the latter too,
and changes the working tree. Neither leaves statements out.)
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLANNER = ("pipeline/test_planner", "pipeline/test_planner_properties", "pipeline/test_planner_reruns")
BATCH = ("test_localbatch_dependencies", "test_localbatch_attempts", "test_localbatch_queues", "test_localbatch_engine")

#: Module of the package -> files of tests that cover it, the quick ones first. The modules are those whose wrong
#: decision no other module would notice: what is done and what is sent, who may submit or hold a task, what runs when,
#: and what an end means.
TESTS: Mapping[str, Sequence[str]] = {
    "pipeline/cells.py": PLANNER,
    "pipeline/live_cells.py": PLANNER,
    "pipeline/conflicts.py": PLANNER,
    "pipeline/retiring.py": ("pipeline/test_planner", "pipeline/test_planner_reruns"),
    "pipeline/planner.py": PLANNER,
    "pipeline/fingerprint.py": ("pipeline/test_fingerprint", "pipeline/test_planner"),
    "run/recovery.py": ("run/test_run_recovery",),
    "run/snapshot.py": ("run/test_run_driver", "run/test_run_recovery"),
    "records/receipts.py": ("records/test_records_receipts",),
    "run/verdict.py": ("run/test_run_verdict", "run/test_run_driver", "run/test_run_recovery"),
    "run/lock.py": ("run/test_run_lock",),
    "container/verdict.py": ("container/test_verdict", "container/test_cell"),
    "container/keep.py": ("container/test_keep",),
    "container/publish.py": ("container/test_keep", "container/test_cell", "container/test_files"),
    "localbatch/engine/state_machine.py": tuple(f"localbatch/{name}" for name in BATCH),
    "pool/moves.py": ("pool/test_pool_moves", "contract/test_pool", "pool/test_pool_protocol"),
    "access/gate.py": ("access/test_gate",),
}
#: Tests that start servers are slow, and would leave them when they are cut off.
PYTEST = ("-m", "pytest", "-xq", "-pno:cacheprovider", "--hypothesis-seed=0", "-m", "not engine and not servers")
#: A run that takes so many times as long as without a mutant, and at least so many seconds, will not end.
LIMIT_FACTOR, LIMIT_SECONDS = 4, 20.0

_OTHER_OPERATORS: Mapping[type[ast.AST], Sequence[type[Any]]] = {
    operator: others
    for operator, *others in (
        *((ast.Lt, ast.LtE, ast.GtE), (ast.LtE, ast.Lt, ast.Gt), (ast.Gt, ast.GtE, ast.LtE), (ast.GtE, ast.Gt, ast.Lt)),
        *((ast.Eq, ast.NotEq), (ast.NotEq, ast.Eq), (ast.Is, ast.IsNot), (ast.IsNot, ast.Is)),
        *((ast.In, ast.NotIn), (ast.NotIn, ast.In), (ast.And, ast.Or), (ast.Or, ast.And)),
        *((ast.Add, ast.Sub), (ast.Sub, ast.Add)),
    )
}
_OTHER_NAMES = {"any": "all", "all": "any", "min": "max", "max": "min"}


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change of a module: the bytes from `start` to `end` become `now`."""

    line: int
    start: int
    end: int
    was: str
    now: str

    def __str__(self) -> str:
        """The change in one line, without most of what is the same before and after it."""
        was, now = (" ".join(text.split()) for text in (self.was, self.now))
        pairs = zip(was, now, strict=False)
        same = max(0, next((i for i, (one, other) in enumerate(pairs) if one != other), 0) - 40)
        return " → ".join(("…" if same else "") + text[same : same + 100] for text in (was, now))

    def apply(self, source: bytes) -> bytes:
        """The module with this change."""
        return source[: self.start] + self.now.encode() + source[self.end :]


def mutants_of(source: bytes) -> list[Mutant]:
    """All mutants of a module, in the order of its text."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    mutants = []
    for part, changed in (change for node in _nodes(ast.parse(source)) for change in _changes(node)):
        start = starts[part.lineno - 1] + part.col_offset
        end = starts[(part.end_lineno or 0) - 1] + (part.end_col_offset or 0)
        now = ast.unparse(ast.fix_missing_locations(changed))
        now = f"({now})" if isinstance(changed, ast.Compare | ast.BoolOp | ast.BinOp | ast.UnaryOp) else now
        mutants.append(Mutant(line=part.lineno, start=start, end=end, was=source[start:end].decode(), now=now))
    return sorted(mutants, key=lambda mutant: (mutant.start, mutant.end))


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that decide something. Of those in a formatted text Python 3.11 does not tell where they are."""
    yield node
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else (value,):
            is_text = name in ("annotation", "returns", "decorator_list") or isinstance(child, ast.JoinedStr)
            if isinstance(child, ast.AST) and not is_text:
                yield from _nodes(child)


def _changes(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt | ast.keyword, ast.expr | ast.stmt]]:
    """The node, or a part of it, with what takes its place."""
    match node:
        case ast.Compare(left=left, ops=ops, comparators=others):
            for i, operator in enumerate(ops):
                for other in _OTHER_OPERATORS[type(operator)]:
                    yield node, ast.Compare(left, [*ops[:i], other(), *ops[i + 1 :]], others)
        case ast.BoolOp(op=operator, values=values):
            yield node, ast.BoolOp(_OTHER_OPERATORS[type(operator)][0](), values)
        case ast.BinOp(op=ast.Add() | ast.Sub() as operator, left=left, right=right):
            yield node, ast.BinOp(left, _OTHER_OPERATORS[type(operator)][0](), right)
        case ast.AugAssign(op=ast.Add() | ast.Sub() as operator, target=target, value=value):
            yield node, ast.AugAssign(target, _OTHER_OPERATORS[type(operator)][0](), value)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield node, operand
        case ast.Constant(value=bool() as value):
            yield node, ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield from ((node, ast.Constant(value + 1)), (node, ast.Constant(value - 1)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in _OTHER_NAMES:
            yield node, ast.Call(ast.Name(_OTHER_NAMES[name]), args, keywords)
        case ast.Call(func=ast.Name(id="replace"), keywords=keywords):
            for keyword in keywords:
                yield keyword, ast.Name("**{}")
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield node, ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call() | ast.Yield() | ast.YieldFrom()) | ast.Raise() | ast.Continue():
            yield node, ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield node, ast.Pass()
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test) | ast.comprehension(ifs=[test]):
            if not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp):  # their operators are changed already
                yield test, ast.UnaryOp(ast.Not(), test)


def spread(mutants: Sequence[Mutant], most: int) -> Sequence[Mutant]:
    """At most so many of them (0: all), evenly spread and always the same."""
    count = min(most, len(mutants)) if most else len(mutants)
    return [mutants[i * len(mutants) // count] for i in range(count)]


def _copy_tree(target: Path) -> None:
    """Copies the files that git knows or would take, as they are now."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    for name in filter(os.path.lexists, (ROOT / os.fsdecode(each) for each in listed.split(b"\0") if each)):
        copy = target / name.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(name, copy, follow_symlinks=False)


def _passes(tree: Path, tests: Sequence[str], limit: float | None) -> bool:
    """Whether tests pass in a copy of the tree; nothing of the run is left when this returns or raises.

    Only the run without mutants (no limit) keeps compiled files: two mutants may be written in the same second.
    """
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1" if limit else ""}
    command = [sys.executable, *PYTEST, f"--basetemp={tree}.tmp", *(f"tests/{name}.py" for name in tests)]
    output = subprocess.DEVNULL if limit else None
    process = subprocess.Popen(command, cwd=tree, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        return process.wait(limit) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def count_survivors(tree: Path, module: str, mutants: Sequence[Mutant]) -> int:
    """Runs the tests of a module against its mutants, and prints those that survive."""
    path, began = tree / "batch_pipeline" / module, time.monotonic()
    if not _passes(tree, TESTS[module], None):
        raise SystemExit(f"The tests of {module} fail without any mutant.")
    limit = max(LIMIT_SECONDS, LIMIT_FACTOR * (time.monotonic() - began))
    source, survivors = path.read_bytes(), 0
    for mutant in mutants:
        path.write_bytes(mutant.apply(source))
        if _passes(tree, TESTS[module], limit):
            survivors += 1
            print(f"batch_pipeline/{module}:{mutant.line}: {mutant}", flush=True)
    path.write_bytes(source)
    counts = f"{len(mutants)} made, {len(mutants) - survivors} killed, {survivors} survived"
    print(f"batch_pipeline/{module}: {counts}, {time.monotonic() - began:.0f} s", flush=True)
    return survivors


def main() -> int:
    """Makes mutants as the command line says and runs the tests against them; 1 when any survived."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--module", action="append", choices=list(TESTS), help="one of the modules; may be repeated")
    parser.add_argument("--most", type=int, default=0, metavar="N", help="at most N mutants a module, evenly spread")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    options = parser.parse_args()
    mutants = {
        module: spread(mutants_of((ROOT / "batch_pipeline" / module).read_bytes()), options.most)
        for module in options.module or TESTS
    }
    if options.list:
        print("\n".join(f"batch_pipeline/{name}:{one.line}: {one}" for name, made in mutants.items() for one in made))
        return 0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # the folder below goes, and what runs in it
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder, "tree")
        _copy_tree(tree)
        survivors = sum(count_survivors(tree, module, made) for module, made in mutants.items())
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
