"""Reads the price lists that AWS hands out into rows of our table: what a file is, its content tells.

    CSV    the list of EC2 of one region or all, as the Price List Bulk API gives it: read row by row
    JSON   the same list; the answer of `aws pricing get-products`; of `aws ec2 describe-spot-price-history`
    CSV    a table of our own columns, as `prices show --csv` prints it

Taken are Linux, shared tenancy, nothing installed, by the hour; of Spot prices the newest of each type and zone. Spot
histories have no sizes: those of types that are in another table already are taken.
https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/reading-service-price-list-file-for-services.html
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

from batch_pipeline.backends.prices import COLUMNS, ON_DEMAND, SPOT, PriceRow, checked, read_rows
from batch_pipeline.wire.errors import InvalidUse

#: Of JSON, which is read whole. The CSV of the same list is read row by row, whatever its size.
MOST_JSON_BYTES: Final = 512 << 20
#: Characters of a file that tell what it is: JSON may be one line.
_MOST_FIRST: Final = 1_000
#: Rows of AWS's CSV before the one with the names of the columns.
_METADATA_ROWS: Final = 5
#: Attribute of a product -> what it must be; as JSON has it, and below the column of the CSV.
_WANTED: Final = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "operation": "RunInstances",
}
_COLUMN_OF: Final = {
    "operatingSystem": "Operating System",
    "tenancy": "Tenancy",
    "preInstalledSw": "Pre Installed S/W",
    "capacitystatus": "CapacityStatus",
    "operation": "operation",
    "instanceType": "Instance Type",
    "vcpu": "vCPU",
    "memory": "Memory",
    "regionCode": "Region Code",
}


def read_list(path: Path, known: Iterable[PriceRow]) -> list[PriceRow]:
    """The rows of a file. `known` have the sizes of instance types, for Spot prices.

    Raises InvalidUse for a file that is none of these, or has no price that could be taken, and InvalidConfig for a
    table of our columns that is wrong.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            first = lines.read(_MOST_FIRST).lstrip().partition("\n")[0].rstrip()
        if first == ",".join(COLUMNS):
            return read_rows(path)
        if first.startswith(('"FormatVersion"', "FormatVersion")):
            rows = list(_of_csv(path))
        elif first.startswith(("{", "[")):
            rows = _of_json(path, known)
        else:
            raise InvalidUse(
                f"The price list {path} is neither a list of AWS's nor a table of ours, whose first line is"
                f" {','.join(COLUMNS)}. Check the file."
            )
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise InvalidUse(f"The price list {path} cannot be read ({error}). Check the file.") from error
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration, RecursionError) as error:
        raise InvalidUse(f"The price list {path} is not as AWS's lists are ({error!r}). Fetch it again.") from error
    if not rows:
        raise InvalidUse(f"The price list {path} has no price of Linux on shared machines. Fetch that of AmazonEC2.")
    return rows


def _of_csv(path: Path) -> Iterator[PriceRow]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        metadata = dict(row[:2] for row in csv.reader(islice(lines, _METADATA_ROWS)) if len(row) > 1)
        for record in csv.DictReader(lines):
            attributes = {name: record.get(column, "") for name, column in _COLUMN_OF.items()}
            if record.get("TermType") == "OnDemand" and record.get("Unit") == "Hrs":
                price, currency = float(record["PricePerUnit"]), record["Currency"]
                yield from _row(attributes, price, currency, metadata["Publication Date"])


def _of_json(path: Path, known: Iterable[PriceRow]) -> list[PriceRow]:
    if (size := path.stat().st_size) > MOST_JSON_BYTES:
        raise InvalidUse(
            f"The price list {path} has {size >> 20:,} MiB, and JSON is read up to {MOST_JSON_BYTES >> 20:,} MiB."
            " Fetch the CSV of the same list, which is read row by row."
        )
    value = json.loads(path.read_bytes())
    if "SpotPriceHistory" in value:
        return list(_spot_rows(value["SpotPriceHistory"], known))
    if "PriceList" in value:
        items = [json.loads(item) if isinstance(item, str) else item for item in value["PriceList"]]
        products = [(item["product"], item["terms"].get("OnDemand", {}), item["publicationDate"]) for item in items]
    else:
        terms = value["terms"]["OnDemand"]
        products = [(item, terms.get(sku, {}), value["publicationDate"]) for sku, item in value["products"].items()]
    return [row for item, offers, at in products for row in _offered(item["attributes"], offers, at)]


def _offered(
    attributes: Mapping[str, Any], offers: Mapping[str, Mapping[str, Any]], published: str
) -> Iterator[PriceRow]:
    """The row of a product of the JSON, of its first offer by the hour."""
    for offer in offers.values():
        for dimension in offer["priceDimensions"].values():
            for currency, price in dimension["pricePerUnit"].items():
                if dimension["unit"] == "Hrs":
                    yield from _row(attributes, float(price), currency, published)


def _row(attributes: Mapping[str, Any], price: float, currency: str, published: str) -> Iterator[PriceRow]:
    """The row of a product; none for one that is not taken."""
    if price <= 0 or any(attributes.get(name) != value for name, value in _WANTED.items()):
        return
    if attributes.get("marketoption", "OnDemand") != "OnDemand":
        return
    yield checked(
        PriceRow(
            place=attributes["regionCode"],
            instance_type=attributes["instanceType"],
            purchase=ON_DEMAND,
            vcpus=float(attributes["vcpu"]),
            memory_gib=float(attributes["memory"].removesuffix("GiB").strip().replace(",", "")),
            price_hour=price,
            currency=currency,
            date=published[:10],
            source="AWS price list",
        )
    )


def _spot_rows(history: Iterable[Mapping[str, Any]], known: Iterable[PriceRow]) -> Iterator[PriceRow]:
    """The newest price of each type and zone."""
    sizes = {row.instance_type: (row.vcpus, row.memory_gib) for row in known}
    newest: dict[tuple[str, str], Mapping[str, Any]] = {}
    for item in history:
        key = (item["AvailabilityZone"], item["InstanceType"])
        is_linux = str(item["ProductDescription"]).startswith("Linux/UNIX")
        if is_linux and key[1] in sizes and (key not in newest or item["Timestamp"] > newest[key]["Timestamp"]):
            newest[key] = item
    for (zone, instance_type), item in newest.items():
        vcpus, memory_gib = sizes[instance_type]
        yield checked(
            PriceRow(
                place=zone,
                instance_type=instance_type,
                purchase=SPOT,
                vcpus=vcpus,
                memory_gib=memory_gib,
                price_hour=float(item["SpotPrice"]),
                currency="USD",
                date=str(item["Timestamp"])[:10],
                source="AWS Spot price history",
            )
        )
