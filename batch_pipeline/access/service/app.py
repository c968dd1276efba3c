"""Builds the FastAPI application: its routes, and the handlers that turn errors into responses."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

import batch_pipeline
from batch_pipeline.access.service import pages
from batch_pipeline.access.service.answers import answer_to, error_answer, sentence_of, status_of, wants_page
from batch_pipeline.access.service.routes import router
from batch_pipeline.access.service.service import Service
from batch_pipeline.wire.errors import BatchPipelineError, Problem, Refused
from batch_pipeline.wire.scrub import scrubbed

_LOG: Final = logging.getLogger(__name__)
_DEFECT: Final = "Something went wrong in the service. Tell its maintainers the request's id."


def make_app(service: Service) -> FastAPI:
    """The application; `guard.Guard` goes around it."""
    app = FastAPI(
        title="batch_pipeline",
        version=batch_pipeline.__version__,
        summary="Runs of reviewed code on datasets: started, recorded, found and shown.",
        docs_url=None,  # their scripts come from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.include_router(router)
    app.add_exception_handler(BatchPipelineError, _ours)
    app.add_exception_handler(RequestValidationError, _of_form)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _defect)
    return app


def _response(request: Request, status: int, sentence: str, json: Response) -> Response:
    if not wants_page(request):
        return json
    page = pages.error(status, sentence, request.state.request_id)
    return HTMLResponse(page, status, headers={k: v for k, v in json.headers.items() if not k.startswith("content-")})


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, BatchPipelineError)
    if isinstance(error, Refused):
        request.state.problems = [problem.subject for problem in error.problems]
    elif status_of(error) >= 500:
        _LOG.error("Request %s: %s", request.state.request_id, scrubbed(error.message))
    return _response(request, status_of(error), sentence_of(error), answer_to(error, request.state.request_id))


async def _of_form(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [_problem(item) for item in error.errors()]
    sentence = "The request is not of its form."
    json = error_answer(422, sentence, request.state.request_id, problems=problems)
    return _response(request, 422, " ".join([sentence, *map(str, problems)]), json)


async def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = {404: "There is nothing here.", 405: "That cannot be done here."}.get(
        error.status_code, str(error.detail)
    )
    json = error_answer(error.status_code, sentence, request.state.request_id, headers=error.headers)
    return _response(request, error.status_code, sentence, json)


async def _defect(request: Request, _: Exception) -> Response:
    # The traceback follows: the server below prints what goes on beyond here.
    _LOG.error("Request %s met a defect.", request.state.request_id)
    return _response(request, 500, _DEFECT, error_answer(500, _DEFECT, request.state.request_id))


def _problem(item: Mapping[str, Any]) -> Problem:
    """What is wrong with a part of a request; its value is not repeated."""
    place = ".".join(map(str, item["loc"][1:])) or str(item["loc"][0])
    rule = str(item["msg"])
    return Problem(subject=place, rule=rule if rule.endswith(".") else f"{rule}.", remedy="Fix it.", status=422)
