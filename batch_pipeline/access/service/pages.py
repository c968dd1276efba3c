"""The pages of the service, from templates in `pages/`: no script, nothing from elsewhere, every text escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

from batch_pipeline.access.service.catalogue import RunHistory
from batch_pipeline.access.service.models import FolderAnswer, RunList, RunSummary
from batch_pipeline.report.run_pages import page_of

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def runs(run_list: RunList, filters: Mapping[str, Any], datasets: Sequence[str], user: str) -> str:
    """The page that lists and filters the runs."""
    active = {name: value for name, value in filters.items() if value and name not in ("before", "most")}
    older = urlencode({**active, "before": run_list.next}) if run_list.next else ""
    return _page(
        "runs.html", run_list=run_list, filters=filters, active=active, datasets=datasets, older=older, user=user
    )


def run(history: RunHistory, user: str) -> str:
    """The page of one run."""
    sections = page_of(history.view.record, history.sent, history.events, history.failed)
    return _page("run.html", run=RunSummary.of(history.view), sections=sections, user=user)


def folder(dataset: str, parts: Sequence[str], listing: FolderAnswer) -> str:
    """The page of a folder; `parts` begin with the level."""
    names = (dataset, *parts)
    crumbs = [(name, "../" * (len(names) - number - 1) or "./") for number, name in enumerate(names)]
    return _page("folder.html", crumbs=crumbs, folder=listing, title="/".join(names), above=bool(parts))


def error(status: int, sentence: str, request_id: str) -> str:
    """The page of an answer that is none."""
    return _page("error.html", status=status, sentence=sentence, request_id=request_id)


@cache
def style() -> bytes:
    """The style of all pages."""
    return resources.files("batch_pipeline.access.service").joinpath("pages", "style.css").read_bytes()


def _page(name: str, **values: Any) -> str:
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("batch_pipeline.access.service", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"moment": _moment, "bytes": _bytes, "part": _part, "short": _short}
    return made


def _moment(text: str) -> str:
    """`2026-11-21T16:30:00.000Z` as `2026-11-21 16:30`."""
    return text[:16].replace("T", " ")


def _bytes(number: float) -> str:
    for unit in _UNITS[:-1]:
        if number < 1024:
            return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} {_UNITS[-1]}"


def _part(name: str) -> str:
    """A name as a relative link: `./` before it, or one with a colon would be an address."""
    return f"./{quote(name, safe='')}"


def _short(repository: str) -> str:
    """The last two parts of a repository's URL."""
    return "/".join(repository.removesuffix(".git").rstrip("/").replace(":", "/").split("/")[-2:])
