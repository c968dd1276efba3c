"""Typed values that a step declares: a parameter of the command line, and a column of the sample sheet.

On the class an attribute is its declaration, on an instance of the step it gives the value. Imported on both sides of
the wire, so this module needs the standard library and `wire` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from batch_pipeline.wire.errors import ContractBroken, InvalidConfig, InvalidPipeline

#: The default of a column that the sheet must have.
REQUIRED: Final = object()


class TypedValue:
    """A value that is given as text: its type, and the rules that it must obey."""

    def __init__(
        self,
        kind: type[Any],
        *,
        help: str = "",
        choices: tuple[Any, ...] = (),
        minimum: float | None = None,
        maximum: float | None = None,
    ) -> None:
        self.kind = kind
        self.help = help
        self.choices = choices
        self.minimum = minimum
        self.maximum = maximum
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def parse(self, value: Any) -> Any:
        """The value in its type. Raises InvalidConfig with the rule it breaks."""
        try:
            parsed = _READERS[self.kind](value)
        except (TypeError, ValueError, OverflowError) as error:
            # As numbers, 3.10 and 3.1 are one.
            remedy = " Write it in quotes." if self.kind is str and isinstance(value, (float, bool)) else ""
            raise InvalidConfig(f"{self.name} must be of type {self.kind.__name__}, not {value!r}.{remedy}") from error
        if self.choices and parsed not in self.choices:
            raise InvalidConfig(f"{self.name} must be one of {', '.join(map(str, self.choices))}, not {value!r}.")
        if self.minimum is not None and parsed < self.minimum:
            raise InvalidConfig(f"{self.name} must be at least {self.minimum}, not {value!r}.")
        if self.maximum is not None and parsed > self.maximum:
            raise InvalidConfig(f"{self.name} must be at most {self.maximum}, not {value!r}.")
        return parsed


class Parameter(TypedValue):
    """What `Param` makes: on the class it is the declaration, on an instance it gives the value."""

    def __init__(self, default: Any, **rules: Any) -> None:
        if type(default) not in _READERS:
            raise InvalidPipeline(
                f"A Param's default is a bool, int, float or str, not {default!r}; it gives the type."
            )
        super().__init__(type(default), **rules)
        self.name = "it"
        try:
            self.default = self.parse(default)
        except InvalidConfig as error:
            raise InvalidPipeline(f"A Param's default breaks its own rule: {error.message}") from error

    def __get__(self, instance: Any | None, owner: type | None = None) -> Any:
        return self if instance is None else instance.params[self.name]


class SheetColumn(TypedValue):
    """What `Column` makes: on the class it is the declaration, on an instance it gives the sample's value."""

    def __init__(
        self,
        columns: tuple[str, ...],
        default: Any,
        kind: type[Any] | None,
        convert: Callable[..., Any] | None,
        **rules: Any,
    ) -> None:
        if wrong := [column for column in columns if not isinstance(column, str)]:
            raise InvalidPipeline(
                f"A Column's name must be a text, not {wrong[0]!r}. Write Column('NAME'), or"
                f" Column(default={wrong[0]!r})."
            )
        #: As the header of the sheet has them; empty: the attribute's name.
        self.columns = columns
        self.default = default
        #: Function from the texts of the columns to the value; None: the one text is the value.
        self.convert = convert
        #: Whether the sheet must have it.
        self.is_required = default is REQUIRED
        example = next(iter(rules["choices"]), "") if self.is_required else default
        super().__init__(kind or type(example), **rules)
        self.name = column = ", ".join(columns)
        if self.kind not in _READERS:
            raise InvalidPipeline(f"Column {column!r}: its type must be bool, int, float or str, not {self.kind!r}.")
        if len(columns) > 1 and convert is None:
            raise InvalidPipeline(f"Column {column!r} has several columns and no function that makes a value of them.")
        if not self.is_required:
            try:
                self.default = self.parse(default)
            except InvalidConfig as error:
                raise InvalidPipeline(f"The default of column {column!r} breaks its own rule: {error}") from error

    def __set_name__(self, owner: type, name: str) -> None:
        super().__set_name__(owner, name)
        self.columns = self.columns or (name,)

    @property
    def column(self) -> str:
        """The column for people; of several all."""
        return ", ".join(self.columns)

    def value_of(self, *texts: str) -> Any:
        """The value of a row with these texts in its columns, of which one is not empty. Raises InvalidConfig."""
        if self.convert is None:
            return self.parse(*texts)
        try:
            return self.parse(self.convert(*texts))
        except ValueError as error:
            raise InvalidConfig(str(error)) from error

    def __get__(self, instance: Any | None, owner: type | None = None) -> Any:
        if instance is None:
            return self
        if self.name in instance.column_values:
            return instance.column_values[self.name]
        if self.is_required or instance.scope.value in ("cohort", "group"):
            raise ContractBroken(
                f"{type(instance).__name__}.{self.name} is known where the step runs for one sample; a gather or group"
                " has job.gathered_columns."
            )
        return self.default


def Param(
    default: Any,
    *,
    help: str = "",
    choices: tuple[Any, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """A parameter: an option of the command line and part of the step's fingerprint.

    Its type is the default's (bool, int, float or str). It is a function that says Any so that a step can write
    `bootstraps: int = Param(30)` and have `self.bootstraps` known as an int.
    """
    return Parameter(default, help=help, choices=choices, minimum=minimum, maximum=maximum)


def Column(
    *columns: str,
    default: Any = REQUIRED,
    type: type[Any] | None = None,
    convert: Callable[..., Any] | None = None,
    choices: tuple[Any, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    help: str = "",
) -> Any:
    """A value of the sample's row in the sheet, part of the fingerprint of that sample's cell alone.

    Its type is `type`, else the default's or the choices' (bool, int, float or str), else str. An empty field, and a
    list without columns, have the default; without one the sheet must have a value. A function as `Param` is.

    Parameters
    ----------
    columns: the column's name in the header of the sheet, if it is not the attribute's; with `convert` several.
    convert: makes the value of the texts of a row's columns, of which an absent one is empty. It is called where one of
        them is not, and raises ValueError with a sentence for a row that it refuses.
    """
    return SheetColumn(columns, default, type, convert, choices=choices, minimum=minimum, maximum=maximum, help=help)


def _flag(value: Any) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if str(value).lower() not in words:
        raise ValueError(value)
    return words[str(value).lower()]


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(value)
    return int(value)


def _number(value: Any) -> float:
    parsed = float(value)
    if isinstance(value, bool) or math.isnan(parsed):
        raise ValueError(value)
    return parsed


def _text(value: Any) -> str:
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise TypeError(value)
    text = str(value)
    # No variable, argument or script can hold a NUL; what is not UTF-8 (lone surrogates) cannot be recorded.
    if "\0" in text:
        raise ValueError(value)
    text.encode()
    return text


#: Type of a value -> how it is read.
_READERS: dict[type, Callable[[Any], Any]] = {bool: _flag, int: _whole, float: _number, str: _text}
