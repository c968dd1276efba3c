"""Prices of AWS's machines: a dated table by place, instance type and purchase, and what a job on one costs an hour.

The package brings `prices.csv`: on-demand prices of some families in three regions, each row with its date and
source. `prices update` writes rows of newer lists (`price_lists`) into the user's own file of the same columns, which
goes before. Prices that a user sets flat, `[prices] vcpu_hour` and `gib_hour`, go before both. What is in no table is
unknown and never guessed.

A machine is split among its jobs as AWS's split cost allocation data does: a vCPU weighs nine times a GiB, a job has
the share of what it reserved, and what no job reserved is idle. Idle machines, pulling of images, disks and transfer
are in no price here.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field, fields
from datetime import date
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

from batch_pipeline.config import Settings
from batch_pipeline.wire import durable
from batch_pipeline.wire.errors import InvalidConfig

#: The table that the package brings.
PACKAGED: Final = Path(__file__).with_name("prices.csv")
ON_DEMAND: Final = "on-demand"
SPOT: Final = "spot"
FARGATE: Final = "fargate"
#: What one vCPU weighs, in GiB of memory.
#: https://docs.aws.amazon.com/cur/latest/userguide/example-split-cost-allocation-data.html
VCPU_WEIGHT: Final = 9.0
UNKNOWN_MACHINE: Final = "an unknown machine"
_GIB: Final = 1024.0
_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]+)+-\d+")
_TYPE: Final = re.compile(r"[a-z][a-z0-9-]*\.(nano|micro|small|medium|(\d*x)?large|metal(-\d+xl)?)")


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceRow:
    """What a machine costs an hour. Fargate has two rows a region: one for a vCPU, one for a GiB."""

    #: A region, or for Spot a zone too.
    place: str
    instance_type: str
    #: `on-demand` or `spot`.
    purchase: str
    vcpus: float
    memory_gib: float
    price_hour: float
    currency: str
    #: Of the list that says so, ISO-8601.
    date: str
    source: str

    @property
    def key(self) -> tuple[str, ...]:
        """What no other row of a table has."""
        part = ("vcpu" if self.vcpus else "gib",) if self.instance_type == FARGATE else ()
        return (self.place, self.instance_type, self.purchase, *part)


COLUMNS: Final = tuple(item.name for item in fields(PriceRow))


@dataclass(frozen=True)
class PriceTable:
    """Rows by their keys."""

    rows: Mapping[tuple[str, ...], PriceRow]

    @classmethod
    def of(cls, *groups: Iterable[PriceRow]) -> PriceTable:
        """The rows of several tables; later ones go before earlier ones of the same key."""
        return cls({row.key: row for group in groups for row in group})

    @property
    def currency(self) -> str:
        """Of its rows; empty for an empty table."""
        return next((row.currency for row in self.rows.values()), "")

    @property
    def dates(self) -> tuple[str, str]:
        """Of its oldest and its newest row; empty for an empty table."""
        dates = [row.date for row in self.rows.values()]
        return min(dates, default=""), max(dates, default="")

    def per_vcpu_and_gib(self, known: PricedMachine) -> tuple[float, float] | None:
        """What a vCPU and a GiB of a machine cost an hour; None: the table does not have it."""
        if known.instance_type == FARGATE:
            vcpu, gib = (self.rows.get((known.region, FARGATE, known.purchase, part)) for part in ("vcpu", "gib"))
            return (vcpu.price_hour, gib.price_hour) if vcpu and gib else None
        for place in (known.zone, known.region):
            row = self.rows.get((place, known.instance_type, known.purchase))
            if row is not None:
                unit = row.price_hour / (VCPU_WEIGHT * row.vcpus + row.memory_gib)
                return VCPU_WEIGHT * unit, unit
        return None


@dataclass(frozen=True, kw_only=True)
class PricedMachine:
    """Where an attempt ran on AWS."""

    instance_type: str
    purchase: str
    zone: str
    region: str

    @classmethod
    def parse(cls, words: str, region: str = "") -> PricedMachine | None:
        """Reads `m5.large, spot, eu-west-1a` as cell tables have it, without a zone in `region`; None: not known."""
        first, *rest = words.split(", ")
        if first != FARGATE and not _TYPE.fullmatch(first):
            return None
        zone = next((word for word in rest if _REGION.match(word)), "")
        purchase = next((word for word in rest if word in (ON_DEMAND, SPOT)), ON_DEMAND if first == FARGATE else "")
        match = _REGION.match(zone)
        return cls(instance_type=first, purchase=purchase, zone=zone, region=match[0] if match else region)

    def __str__(self) -> str:
        place = self.region or "an unknown region"
        return " ".join(filter(None, (self.instance_type, self.purchase, "in", place)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Tariff:
    """What a job costs an hour: flat, by a table, or nothing."""

    currency: str
    #: A vCPU and a GiB for an hour, on any machine; None: by the table.
    flat: tuple[float, float] | None
    #: What is assumed of a job of which nobody knows yet where it will run.
    assumed: tuple[float, float]
    table: PriceTable = field(default_factory=lambda: PriceTable({}))
    #: Of machines whose zone is not known.
    region: str = ""

    def hourly(self, cpus: float, memory_mb: float, machine: str) -> float | None:
        """Price of a job for an hour on a machine, in words as cell tables have it; None: nobody knows."""
        parts = self.flat or _parts(self, machine)
        return None if parts is None else cpus * parts[0] + memory_mb / _GIB * parts[1]

    def assumed_hourly(self, cpus: float, memory_mb: float) -> float:
        """The same of a job that may run anywhere."""
        return cpus * self.assumed[0] + memory_mb / _GIB * self.assumed[1]

    def unknown(self, machine: str) -> str:
        """A machine without a price, in words."""
        known = PricedMachine.parse(machine, self.region)
        return str(known) if known else UNKNOWN_MACHINE


@lru_cache(maxsize=4096)
def _parts(tariff: Tariff, machine: str) -> tuple[float, float] | None:
    known = PricedMachine.parse(machine, tariff.region)
    return None if known is None else tariff.table.per_vcpu_and_gib(known)


def tariff_of(settings: Settings) -> Tariff:
    """The prices of these settings: nothing on this machine, flat where they were set, else by the tables.

    Raises InvalidConfig for a file of prices that cannot be read.
    """
    prices = settings.prices
    default = (prices.vcpu_hour, prices.gib_hour)
    if settings.backend.name == "embedded":
        return Tariff(currency=prices.currency, flat=(0.0, 0.0), assumed=default)
    if any(f"prices.{name}" in settings.origins for name in ("vcpu_hour", "gib_hour")):
        return Tariff(currency=prices.currency, flat=default, assumed=default)
    table = price_table(prices.own_file)
    return Tariff(
        currency=table.currency or prices.currency,
        flat=None,
        assumed=default,
        table=table,
        region=settings.aws.region,
    )


@cache
def packaged_rows() -> tuple[PriceRow, ...]:
    """The rows that the package brings."""
    return tuple(read_rows(PACKAGED))


def price_table(own: Path) -> PriceTable:
    """The packaged table with the rows of the user's own file before it, if that is there.

    Raises InvalidConfig for a file that cannot be read, and for one in another currency than the package's.
    """
    table = PriceTable.of(packaged_rows(), read_rows(own) if own.exists() else ())
    currencies = sorted({row.currency for row in table.rows.values()})
    if len(currencies) > 1:
        raise InvalidConfig(
            f"A table has one currency, and with {own} it would have {', '.join(currencies)}. Correct that file, or set"
            " prices.vcpu_hour, prices.gib_hour and prices.currency."
        )
    return table


def read_rows(path: Path) -> list[PriceRow]:
    """The rows of a table of our columns. Raises InvalidConfig, naming the line that is wrong."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            return list(_parsed(path, csv.DictReader(lines)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidConfig(f"The prices {path} cannot be read ({error}). `prices update FILE` writes them.") from error


def _parsed(path: Path, reader: csv.DictReader[str]) -> Iterator[PriceRow]:
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise InvalidConfig(f"The prices {path} have other columns than {','.join(COLUMNS)}. Write those.")
    for record in reader:
        try:
            numbers = {name: float(record[name]) for name in ("vcpus", "memory_gib", "price_hour")}
            texts = {name: record[name] for name in COLUMNS if name not in numbers}
            yield checked(PriceRow(**texts, **numbers))  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise InvalidConfig(f"The prices {path}, line {reader.line_num}: {error}. Correct or remove it.") from error


def checked(row: PriceRow) -> PriceRow:
    """The row. Raises ValueError for one that is none: numbers that are no sizes or prices, another purchase."""
    numbers = (row.vcpus, row.memory_gib, row.price_hour)
    if not all(map(math.isfinite, numbers)) or min(numbers) < 0 or not row.price_hour:
        raise ValueError("vcpus, memory_gib and price_hour must be numbers above 0")
    if not (row.vcpus and row.memory_gib) and row.instance_type != FARGATE:
        raise ValueError("an instance type has vcpus and memory_gib")
    if row.purchase not in (ON_DEMAND, SPOT):
        raise ValueError(f"purchase must be {ON_DEMAND} or {SPOT}, not {row.purchase!r}")
    try:
        date.fromisoformat(row.date)
    except ValueError:
        raise ValueError(f"date must be a day as 2026-01-31, not {row.date!r}") from None
    if not _REGION.match(row.place):
        raise ValueError(f"place must be a region or a zone, not {row.place!r}")
    return row


def csv_text(rows: Iterable[PriceRow]) -> str:
    """A table of our columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(map(astuple, rows))
    return text.getvalue()


def write_rows(path: Path, rows: Iterable[PriceRow]) -> None:
    """Writes a table of our columns, whole or not at all. Raises InvalidConfig."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.put(str(path), csv_text(rows).encode())
    except OSError as error:
        raise InvalidConfig(f"The prices {path} cannot be written ({error}). Set prices.file.") from error
