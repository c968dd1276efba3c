"""Prices of machines: AWS's own rule of shares, and its own lists as it hands them out."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.backends.price_lists import read_list
from batch_pipeline.backends.prices import (
    COLUMNS,
    FARGATE,
    UNKNOWN_MACHINE,
    PricedMachine,
    PriceRow,
    PriceTable,
    Tariff,
    csv_text,
    packaged_rows,
    price_table,
    read_rows,
    tariff_of,
    write_rows,
)
from batch_pipeline.config import load_settings
from batch_pipeline.wire.errors import InvalidConfig, InvalidUse


def row(**changes: Any) -> PriceRow:
    values: dict[str, Any] = {
        "place": "eu-west-1",
        "instance_type": "m5.xlarge",
        "purchase": "on-demand",
        "vcpus": 4.0,
        "memory_gib": 16.0,
        "price_hour": 1.0,
        "currency": "USD",
        "date": "2026-01-01",
        "source": "here",
    }
    return PriceRow(**{**values, **changes})


def tariff(*rows: PriceRow, region: str = "") -> Tariff:
    return Tariff(currency="USD", flat=None, assumed=(0.0, 0.0), table=PriceTable.of(rows), region=region)


def test_a_job_has_its_share_as_in_the_example_of_aws() -> None:
    """A vCPU weighs as much as 9 GiB: of 4 vCPUs and 16 GiB for 1 an hour 0.17 a vCPU and 0.02 a GiB."""
    prices = tariff(row())
    machine = "m5.xlarge, on-demand, eu-west-1a"
    assert prices.hourly(1, 0, machine) == pytest.approx(9 / 52)
    assert prices.hourly(0, 1024, machine) == pytest.approx(1 / 52)
    assert prices.hourly(4, 16 * 1024, machine) == pytest.approx(1.0)


def test_the_price_of_a_zone_goes_before_that_of_its_region() -> None:
    prices = tariff(
        row(purchase="spot", price_hour=0.4),
        row(purchase="spot", place="eu-west-1b", price_hour=0.3),
        region="eu-west-1",
    )
    for machine, price in (("eu-west-1a", 0.4), ("eu-west-1b", 0.3), ("", 0.4)):
        words = ", ".join(filter(None, ("m5.xlarge", "spot", machine)))
        assert prices.hourly(4, 16 * 1024, words) == pytest.approx(price)


def test_fargate_is_priced_by_vcpu_and_gib() -> None:
    vcpu = row(instance_type=FARGATE, vcpus=1.0, memory_gib=0.0, price_hour=0.04)
    gib = row(instance_type=FARGATE, vcpus=0.0, memory_gib=1.0, price_hour=0.004)
    assert tariff(vcpu, gib).hourly(2, 4096, "fargate, eu-west-1c") == pytest.approx(0.096)
    assert tariff(vcpu).hourly(2, 4096, "fargate, eu-west-1c") is None


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ("", UNKNOWN_MACHINE),
        ("ip-10-0-0-1.ec2.internal", UNKNOWN_MACHINE),
        ("m5.xlarge, spot, eu-west-1a", "m5.xlarge spot in eu-west-1"),
        ("c7i.metal-24xl, on-demand, us-west-2-lax-1a", "c7i.metal-24xl on-demand in us-west-2"),
        ("m5.xlarge, on-demand", "m5.xlarge on-demand in an unknown region"),
        ("m5.xlarge, eu-west-1a", "m5.xlarge in eu-west-1"),
    ],
)
def test_a_machine_without_a_price_is_told_and_never_guessed(machine: str, words: str) -> None:
    prices = tariff(row())
    assert prices.hourly(1, 1024, machine) is None
    assert prices.unknown(machine) == words


def test_prices_that_are_set_flat_go_before_the_table(tmp_path: Path) -> None:
    about = {"backend.name": "aws", "prices.file": str(tmp_path / "prices.csv")}
    by_table = tariff_of(load_settings(about, environ={}))
    assert by_table.hourly(2, 8192, "m5.large, on-demand, us-east-1a") == pytest.approx(0.096)
    assert by_table.hourly(2, 8192, "some-host") is None
    flat = tariff_of(load_settings(about | {"prices.vcpu_hour": 1.0}, environ={}))
    assert flat.hourly(2, 0, "m5.large, on-demand, us-east-1a") == flat.hourly(2, 0, "some-host") == 2.0
    here = tariff_of(load_settings({"prices.vcpu_hour": 1.0}, environ={}))
    assert here.hourly(2, 0, "some-host") == 0.0


def test_every_row_of_the_package_says_when_and_by_whom() -> None:
    rows = packaged_rows()
    assert len(PriceTable.of(rows).rows) == len(rows) > 150
    assert {entry.place for entry in rows} == {"us-east-1", "eu-west-1", "eu-central-1"}
    assert all(entry.date >= "2025-01-01" and entry.source and entry.currency == "USD" for entry in rows)
    for entry in rows:
        if entry.instance_type != FARGATE:
            machine = PricedMachine.parse(f"{entry.instance_type}, {entry.purchase}, {entry.place}a")
            assert machine is not None
            assert 0.03 < entry.price_hour / entry.vcpus < 0.09


def test_a_users_own_table_goes_before_that_of_the_package(tmp_path: Path) -> None:
    own = tmp_path / "deep" / "prices.csv"
    assert len(price_table(own).rows) == len(packaged_rows())
    newer = row(
        place="us-east-1", instance_type="m5.large", vcpus=2.0, memory_gib=8.0, price_hour=0.2, source='a "b", c'
    )
    write_rows(own, [newer, row(place="ap-south-1")])
    assert read_rows(own) == [newer, row(place="ap-south-1")]
    table = price_table(own)
    assert table.rows[newer.key] == newer
    assert len(table.rows) == len(packaged_rows()) + 1


def test_a_users_own_table_in_another_currency_is_refused(tmp_path: Path) -> None:
    """Sums of two currencies under the name of one would be wrong."""
    own = tmp_path / "prices.csv"
    write_rows(own, [row(place="cn-north-1", currency="CNY")])
    with pytest.raises(InvalidConfig, match=r"prices\.csv it would have CNY, USD\. Correct that file, or set"):
        price_table(own)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"price_hour": "-1"}, "line 2: vcpus, memory_gib and price_hour must be numbers above 0"),
        ({"price_hour": "nan"}, "must be numbers above 0"),
        ({"price_hour": "much"}, "could not convert"),
        ({"vcpus": "0"}, "an instance type has vcpus and memory_gib"),
        ({"purchase": "gift"}, "purchase must be on-demand or spot, not 'gift'"),
        ({"date": "2099-99-99"}, "date must be a day as 2026-01-31, not '2099-99-99'"),
        ({"place": "Ireland"}, "place must be a region or a zone"),
    ],
)
def test_a_table_that_is_wrong_is_refused_with_its_line(tmp_path: Path, change: Mapping[str, str], words: str) -> None:
    path = tmp_path / "prices.csv"
    write_rows(path, [row()])
    with path.open(newline="") as lines:
        (record,) = csv.DictReader(lines)
    with path.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS)
        writer.writeheader()
        writer.writerow({**record, **change})
    with pytest.raises(InvalidConfig, match=words):
        read_rows(path)


#: As the Price List Bulk API has one product.
ATTRIBUTES = {
    "instanceType": "r7a.xlarge",
    "vcpu": "4",
    "memory": "32 GiB",
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "operation": "RunInstances",
    "regionCode": "eu-north-1",
    "marketoption": "OnDemand",
}
OTHERS = (
    {"operatingSystem": "Windows"},
    {"tenancy": "Dedicated"},
    {"preInstalledSw": "SQL Std"},
    {"capacitystatus": "AllocatedCapacityReservation"},
    {"operation": "RunInstances:0010"},
    {"marketoption": "CapacityBlock"},
)
TAKEN = row(
    place="eu-north-1",
    instance_type="r7a.xlarge",
    memory_gib=32.0,
    price_hour=0.33,
    date="2026-10-02",
    source="AWS price list",
)
PUBLISHED = "2026-10-02T10:00:00Z"


def offer(price: str = "0.3300000000") -> dict[str, Any]:
    dimension = {"unit": "Hrs", "pricePerUnit": {"USD": price}}
    return {"SKU.JRTC": {"priceDimensions": {"SKU.JRTC.6YS6": dimension}}}


def bulk_json() -> str:
    products = {"A": {"attributes": ATTRIBUTES}, "F": {"attributes": {"servicename": "Amazon EC2"}}}
    products |= {f"B{number}": {"attributes": {**ATTRIBUTES, **other}} for number, other in enumerate(OTHERS)}
    terms = {sku: offer() for sku in products} | {"Z": offer()}
    return json.dumps({"publicationDate": PUBLISHED, "products": products, "terms": {"OnDemand": terms}})


def query_json() -> str:
    items = [{**ATTRIBUTES, **other} for other in ({}, *OTHERS)]
    made = [
        {"product": {"attributes": item}, "terms": {"OnDemand": offer()}, "publicationDate": PUBLISHED}
        for item in items
    ]
    return json.dumps({"PriceList": [json.dumps(item) for item in made]})


def bulk_csv() -> str:
    names = {
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
    lines = ['"FormatVersion","v1.0"', '"Disclaimer","This, and that"', f'"Publication Date","{PUBLISHED}"']
    lines += ['"Version","20261002"', '"OfferCode","AmazonEC2"']
    head = ["SKU", "TermType", "Unit", "PricePerUnit", "Currency", *names.values()]
    lines.append(",".join(f'"{name}"' for name in head))
    terms = [
        ("OnDemand", "Hrs", "0.33"),
        ("Reserved", "Hrs", "0.1"),
        ("OnDemand", "Quantity", "99"),
        ("OnDemand", "Hrs", "0"),
    ]
    for attributes, found in [(ATTRIBUTES, terms), *(({**ATTRIBUTES, **other}, terms[:1]) for other in OTHERS[:5])]:
        for term in found:
            values = ["A", *term, "USD", *(attributes[name] for name in names)]
            lines.append(",".join(f'"{value}"' for value in values))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("written", [bulk_json, query_json, bulk_csv])
def test_lists_of_aws_are_read_and_only_linux_on_shared_machines_is_taken(tmp_path: Path, written: Any) -> None:
    path = tmp_path / "list"
    path.write_text(written())
    assert read_list(path, ()) == [TAKEN]


def test_of_spot_prices_the_newest_of_each_zone_is_taken(tmp_path: Path) -> None:
    def item(zone: str, price: str, at: str, **more: str) -> dict[str, str]:
        base = {"AvailabilityZone": zone, "InstanceType": "m5.xlarge", "ProductDescription": "Linux/UNIX"}
        return base | {"SpotPrice": price, "Timestamp": at} | more

    history = [
        item("eu-west-1a", "0.08", "2026-10-01T00:00:00+00:00"),
        item("eu-west-1a", "0.09", "2026-10-02T00:00:00+00:00"),
        item("eu-west-1b", "0.07", "2026-10-01T00:00:00+00:00"),
        item("eu-west-1b", "0.50", "2026-10-03T00:00:00+00:00", ProductDescription="Windows"),
        item("eu-west-1a", "0.01", "2026-10-01T00:00:00+00:00", InstanceType="x9.large"),
    ]
    path = tmp_path / "spot.json"
    path.write_text(json.dumps({"SpotPriceHistory": history}))
    prices = {entry.place: (entry.price_hour, entry.date, entry.purchase) for entry in read_list(path, [row()])}
    assert prices == {"eu-west-1a": (0.09, "2026-10-02", "spot"), "eu-west-1b": (0.07, "2026-10-01", "spot")}


def test_a_table_that_a_spreadsheet_saved_is_read(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    path.write_bytes(b"\xef\xbb\xbf" + csv_text([row()]).replace("\n", "\r\n").encode())
    assert read_list(path, ()) == [row()]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"products": {}}',
        "a,b\n1,2\n",
        '{"PriceList": []}',
        '"FormatVersion"\n',
        pytest.param('{"products":' * 100_000, id="deep"),
        ";".join(COLUMNS),
    ],
)
def test_a_file_that_is_no_price_list_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list"
    path.write_text(text)
    with pytest.raises(InvalidUse, match="The price list"):
        read_list(path, ())
