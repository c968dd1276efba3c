"""The condition of a step: `when = "strand != 'none' and trim"`, an expression over columns and parameters.

It is parsed, never run: names of parameters and columns, literals, comparisons, `in`, and/or/not, and nothing else.
Types are strict, for a silent `False` would leave a sample out: only what is true or false decides, and text is not
compared with a number.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from batch_pipeline.pipeline.columns import Values, column_values
from batch_pipeline.pipeline.samples import Sample, SampleList
from batch_pipeline.pipeline.step import Parameter, Scope, SheetColumn
from batch_pipeline.pipeline.workflow import Graph, Node
from batch_pipeline.wire.errors import InvalidConfig, InvalidPipeline
from batch_pipeline.wire.layout import COHORT

_LITERALS: Final = (bool, int, float, str, type(None))
_COMPARISONS: Final[dict[type[ast.cmpop], Callable[[Any, Any], bool]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
_KINDS: Final = {bool: "true or false", int: "a number", float: "a number", str: "text", type(None): "nothing"}


class _WrongValue(Exception):
    """A value is not of the kind that its place in a condition needs."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A parsed condition."""

    text: str
    #: File and line where it is written.
    place: str
    expression: ast.expr

    @classmethod
    def parse(cls, text: str, place: str) -> Condition:
        """Parses a condition. Raises InvalidPipeline with its place for anything but the small language."""
        try:
            expression = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InvalidPipeline(f"{place}: when = {text!r} is no expression ({error}).") from error
        for node in _operands(expression):
            if not _is_allowed(node):
                raise InvalidPipeline(
                    f"{place}: {ast.unparse(node)} is not allowed in when = {text!r}. Write names of columns and"
                    " parameters, literals, comparisons, in, and, or, not."
                )
        return cls(text=text, place=place, expression=expression)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names in it, each once, in the order in which they are written."""
        names = [node for node in ast.walk(self.expression) if isinstance(node, ast.Name)]
        return tuple(dict.fromkeys(node.id for node in sorted(names, key=lambda one: (one.lineno, one.col_offset))))

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether it is true with these values of its names. Raises InvalidPipeline for values that do not fit it."""
        try:
            return _truth(self.expression, values)
        except _WrongValue as error:
            raise InvalidPipeline(f"{self.place}: {error} in when = {self.text!r}, with {_listed(values)}.") from error

    def words(self, values: Mapping[str, Any]) -> str:
        """The condition and the values of its names: `when = "strand != 'none'", with strand = 'none'`."""
        return f'when = "{self.text}"' + (f", with {_listed(values)}" if values else "")


def condition_of(node: Node) -> Condition | None:
    """The condition of a step, parsed; None: it has none. Raises InvalidPipeline."""
    return Condition.parse(node.when, node.when_place) if node.when else None


def values_of(node: Node, condition: Condition, sample: Sample | None, columns: Values) -> dict[str, Any]:
    """The values of the names of a condition for a sample (None: for a gather), whose declared columns are `columns`.

    Raises InvalidPipeline.
    """
    return {name: _value(node, condition, name, sample, columns) for name in condition.names}


def excluded_cells(graph: Graph, samples: SampleList) -> dict[str, frozenset[str]]:
    """Step -> samples (COHORT for a gather) whose cells its condition excludes.

    A sample whose value of a declared column breaks a rule is not excluded: `columns_of` refuses it. Raises
    InvalidPipeline.
    """
    excluded: dict[str, frozenset[str]] = {}
    for node in graph:
        if (condition := condition_of(node)) is None:
            continue
        if node.scope is Scope.COHORT:
            holds = condition.holds(values_of(node, condition, None, {}))
            excluded[node.name] = frozenset() if holds else frozenset({COHORT})
        else:
            excluded[node.name] = _excluded(node, condition, samples)
    return {step: names for step, names in excluded.items() if names}


def explanation_of(node: Node, sample: Sample | None) -> str:
    """The condition of a step with its values for a sample (None: for a gather)."""
    condition = condition_of(node)
    if condition is None:
        return ""
    columns = column_values(node.step, sample, condition.names) if sample is not None else {}
    return condition.words(values_of(node, condition, sample, columns))


def _excluded(node: Node, condition: Condition, samples: SampleList) -> frozenset[str]:
    declared = node.step.declared(SheetColumn)
    columns = [each for name in condition.names for each in (declared[name].columns if name in declared else (name,))]
    # A sheet has many samples and few texts in these columns.
    holds: dict[tuple[str | None, ...], bool] = {}
    excluded = set()
    for sample in samples:
        texts = tuple(row.columns.get(column) for row in sample.rows for column in columns)
        if texts not in holds:
            holds[texts] = _holds(node, condition, sample)
        if not holds[texts]:
            excluded.add(sample.name)
    return frozenset(excluded)


def _holds(node: Node, condition: Condition, sample: Sample) -> bool:
    """Whether a condition is true for a sample, or a value that it reads breaks a rule of its declared column."""
    try:
        columns = column_values(node.step, sample, condition.names)
    except InvalidConfig:
        return True
    return condition.holds(values_of(node, condition, sample, columns))


def _value(node: Node, condition: Condition, name: str, sample: Sample | None, declared: Values) -> Any:
    if name in declared:
        return declared[name]
    columns = sample.columns if sample is not None else {}
    if name in node.step.params:
        if name in columns:
            raise InvalidPipeline(
                f"{condition.place}: {name} in when = {condition.text!r} is a parameter of {node.name} and a column of"
                " the sample sheet. Rename one of them."
            )
        return node.step.params[name]
    if sample is not None and name in columns:
        if len({row.columns.get(name) for row in sample.rows}) > 1:
            raise InvalidPipeline(
                f"{condition.place}: {name} in when = {condition.text!r} has several values for sample {sample.name!r},"
                f" whose first line is {sample.line}. Give its lines one value."
            )
        return columns[name]
    parameters = ", ".join(node.step.declared(Parameter)) or "none"
    sheet = ", ".join(columns) or "none"
    why = " (a gather has no columns)" if sample is None else ""
    raise InvalidPipeline(
        f"{condition.place}: {name} in when = {condition.text!r} is neither a parameter of {node.name} ({parameters})"
        f" nor a column of the sample sheet ({sheet}){why}."
    )


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value!r}" for name, value in values.items())


def _operands(expression: ast.expr) -> list[ast.expr]:
    """The expression and all that it consists of, outermost first."""
    return [node for node in ast.walk(expression) if isinstance(node, ast.expr)]


def _is_allowed(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return type(node.value) in _LITERALS
    if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        return all(isinstance(item, ast.Constant) or _is_negative(item) for item in node.elts)
    if isinstance(node, ast.Compare):
        return all(type(one) in _COMPARISONS for one in node.ops)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.Not) or _is_negative(node)
    return isinstance(node, (ast.Name, ast.BoolOp))


def _is_negative(node: ast.expr) -> bool:
    """Whether it is a number with a minus, which is no literal to Python."""
    return (
        isinstance(node, ast.UnaryOp)
        and isinstance(node.op, ast.USub)
        and isinstance(node.operand, ast.Constant)
        and type(node.operand.value) in (int, float)
    )


def _truth(node: ast.expr, values: Mapping[str, Any]) -> bool:
    """The value of what is true or false. Raises _WrongValue for anything else."""
    value = _evaluated(node, values)
    if type(value) is not bool:
        raise _WrongValue(f"{ast.unparse(node)} is {_KINDS.get(type(value), 'a list')}, not true or false; compare it")
    return value


def _evaluated(node: ast.expr, values: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.BoolOp):
        every = isinstance(node.op, ast.And)
        operands = (_truth(operand, values) for operand in node.values)
        return all(operands) if every else any(operands)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return not _truth(node.operand, values)
    if isinstance(node, ast.Compare):
        return _compared(node, values)
    return values[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)


def _compared(node: ast.Compare, values: Mapping[str, Any]) -> bool:
    left = _evaluated(node.left, values)
    for comparison, operand in zip(node.ops, node.comparators, strict=True):
        right = _evaluated(operand, values)
        if not _is_comparable(comparison, left, right):
            kinds = " with ".join(_KINDS.get(type(value), "a list") for value in (left, right))
            raise _WrongValue(f"{ast.unparse(node)} compares {kinds}")
        if not _COMPARISONS[type(comparison)](left, right):
            return False
        left = right
    return True


def _is_comparable(comparison: ast.cmpop, left: Any, right: Any) -> bool:
    if isinstance(comparison, (ast.In, ast.NotIn)):
        items = right if isinstance(right, (tuple, list, set)) else None
        if items is None:
            return isinstance(left, str) and isinstance(right, str)
        return all(_is_comparable(ast.Eq(), left, item) for item in items)
    if isinstance(comparison, (ast.Is, ast.IsNot)):
        return right is None
    kinds = [_KINDS.get(type(value)) for value in (left, right)]
    if isinstance(comparison, (ast.Eq, ast.NotEq)) and "nothing" in kinds:
        return True
    return kinds[0] == kinds[1] and kinds[0] not in (None, "nothing")
