"""Routes of the service: start a run, list runs, show one, view results. `/openapi.json` describes them.

    POST /runs                        admits by the gate, records and submits: the same as `submit`
    GET  /runs, /runs/{run_id}        as JSON, or as a page for a browser
    GET  /runs/{run_id}/report        the page that `report` writes about a run
    GET  /                            the page of the runs
    GET  /{dataset}/                  the page of a dataset's levels
    GET  /{dataset}/{level}/{path}    a file of a dataset, or the list of a folder; HEAD too
    GET  /health, /_/style.css

All but the last line require an identity token. What a user may see and start is decided by the policies
(`access.policy`), read for each request.
"""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

import batch_pipeline
from batch_pipeline.access.request import Level, UserIdentity
from batch_pipeline.access.service import pages
from batch_pipeline.access.service.answers import wants_page
from batch_pipeline.access.service.files import list_folder, open_file, parts_of
from batch_pipeline.access.service.models import (
    ErrorAnswer,
    FolderAnswer,
    Health,
    RunDetail,
    RunList,
    RunRequest,
    Started,
)
from batch_pipeline.access.service.results import answer
from batch_pipeline.access.service.service import CurrentService, CurrentUser, Filters, Service
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.scrub import scrubbed_words
from batch_pipeline.wire.store import NotInStore

#: A ULID: https://github.com/ulid/spec
RUN_ID: Final = r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$"
_DATASET: Final = r"^[a-z0-9][a-z0-9-]{0,39}$"
#: What hides in a path until it is taken for a separator.
_HIDDEN: Final = (b"%2f", b"%5c", b"%00")


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorAnswer} for status in (401, 422, 429, 500, 503, *statuses)}


_PAGE: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"text/html": {}}}}
_BYTES: Final = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
_FILES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": _BYTES, "description": "A file, or the list of a folder"},
    206: {"content": _BYTES, "description": "Part of a file"},
    304: {"description": "It has not changed"},
    308: {"description": "It is a folder: a slash behind its name"},
    416: {"description": "The file has no such part"},
}
router: Final = APIRouter()


@router.post("/runs", status_code=201, response_model=Started, responses=_errors(400, 403, 409, 413, 502))
def start(
    request: Request, response: Response, body: RunRequest, identity: CurrentUser, service: CurrentService
) -> Started:
    """Starts a run: the gate decides by the dataset's policy, then it is recorded and its driver submitted."""
    submit_request = body.to_submit_request()
    service.audit.write(
        event="asked",
        request_id=request.state.request_id,
        user=identity.name,
        source=identity.source,
        dataset=submit_request.dataset,
        level=submit_request.access_level,
        repository=submit_request.repository,
        commit=submit_request.commit,
        image=submit_request.image,
        output=submit_request.output_dir,
        script=scrubbed_words(list(submit_request.script)),
    )
    started = service.start(submit_request, identity)
    request.state.run_id = started.run_id
    response.headers["Location"] = started.url
    return started


@router.get("/runs", response_model=RunList, responses=_errors() | _PAGE)
def runs(request: Request, filters: Annotated[Filters, Query()], identity: CurrentUser, service: CurrentService) -> Any:
    """The runs of the datasets whose member one is, newest first."""
    page = service.catalogue.find(identity, filters.query(), most=filters.most, before=filters.before)
    run_list = RunList.of(page)
    return HTMLResponse(_runs_page(service, identity, filters, run_list)) if wants_page(request) else run_list


@router.get("/runs/{run_id}", response_model=RunDetail, responses=_errors(404) | _PAGE)
def run(
    request: Request, run_id: Annotated[str, Path(pattern=RUN_ID)], identity: CurrentUser, service: CurrentService
) -> Any:
    """One run: its record, its jobs, and what happened to it."""
    history = service.catalogue.history(identity, run_id)
    return HTMLResponse(pages.run(history, identity.name)) if wants_page(request) else RunDetail.of(history)


@router.get("/runs/{run_id}/report", response_model=None, responses=_errors(400, 404) | _PAGE)
def report(run_id: Annotated[str, Path(pattern=RUN_ID)], identity: CurrentUser, service: CurrentService) -> Response:
    """The page that `report` writes about a run, as it is now."""
    store, view = service.catalogue.run(identity, run_id)
    return service.reports.page(store, view.record)


@router.get("/health", response_model=Health, responses={429: {"model": ErrorAnswer}})
def health() -> Health:
    """Whether the service is up; checks nothing else."""
    return Health(status="ok", version=batch_pipeline.__version__)


def _runs_page(service: Service, identity: UserIdentity, filters: Filters, run_list: RunList) -> str:
    names = [policy.dataset for policy in service.catalogue.datasets(identity)]
    return pages.runs(run_list, filters.model_dump(mode="json"), names, identity.name)


@router.get("/", include_in_schema=False)
def home(filters: Annotated[Filters, Query()], identity: CurrentUser, service: CurrentService) -> Response:
    """The page of the runs."""
    page = service.catalogue.find(identity, filters.query(), most=filters.most, before=filters.before)
    return HTMLResponse(_runs_page(service, identity, filters, RunList.of(page)))


@router.get("/_/style.css", include_in_schema=False)
def style() -> Response:
    """The style of the pages."""
    return Response(pages.style(), media_type="text/css", headers={"Cache-Control": "public, max-age=3600"})


@router.get("/{dataset}/", include_in_schema=False)
def levels(dataset: Annotated[str, Path(pattern=_DATASET)], identity: CurrentUser, service: CurrentService) -> Response:
    """The levels of a dataset that one may use."""
    policies = [policy for policy in service.catalogue.datasets(identity) if policy.dataset == dataset]
    if not policies:
        raise NotInStore("There is no such dataset among those that you may see.")
    names = [level.value for level in policies[0].levels if policies[0].is_member(level, identity.names)]
    return HTMLResponse(pages.folder(dataset, (), FolderAnswer(path="", folders=names, files=[], cut=False)))


@router.head("/{dataset}/{level}/{path:path}", include_in_schema=False)
@router.get("/{dataset}/{level}/{path:path}", response_class=Response, responses=_errors(400, 403, 404) | _FILES)
def results(
    request: Request,
    dataset: Annotated[str, Path(pattern=_DATASET)],
    level: Level,
    path: str,
    identity: CurrentUser,
    service: CurrentService,
) -> Response:
    """A file of a dataset, streamed, with ranges and conditions; or a folder's list."""
    raw = (request.scope.get("raw_path") or b"").lower()
    if any(hidden in raw for hidden in _HIDDEN):
        raise InvalidUse("The path has encoded separators. Follow the links from the folder above.")
    parts = parts_of(path)
    store, prefix = service.catalogue.area(identity, dataset, level)
    whole = (*parts_of(prefix), *parts)
    if not path or path.endswith("/"):
        listing = list_folder(store, whole)
        answered = FolderAnswer.of(path, listing)
        if wants_page(request):
            return HTMLResponse(pages.folder(dataset, (level.value, *parts), answered))
        return Response(answered.model_dump_json(), media_type="application/json")
    try:
        return answer(open_file(store, whole), request.method, request.headers)
    except NotInStore:
        list_folder(store, whole)  # raises when it is no folder either
        return RedirectResponse(f"{quote(parts[-1], safe='')}/", 308)
