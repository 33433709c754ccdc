"""The service as an ASGI application: its paths, and the status of each kind of refusal."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi import Query as InQuery
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as RefusedByStarlette
from starlette.routing import Route

from flatnext.errors import InputError, alike, choose
from flatnext.pictures import PictureError, TooLargeError
from flatnext.serve.answers import Answers, Health, ImageAnswer, ImageProblem, Limits, ModelInfo, Problem, Query
from flatnext.serve.guard import Guard, problem
from flatnext.serve.metrics import Measured
from flatnext.serve.service import Outcome, Service
from flatnext.serve.uploads import MULTIPART, RAW, Load, Take, Upload, read_uploads, shown
from flatnext.versions import version_of

WAITING = 256
"""Requests to /predict that may be under way; one more is told to come back later."""

BODIES = 25
"""Times the largest body, that all bodies under way may take together."""

PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
OPEN = frozenset({*PAGE, "/health", "/openapi.json"})
"""Paths that need no token: none of them tells of the model or of images."""

PATHS = frozenset({*OPEN, "/predict", "/model", "/metrics"})

DESCRIPTION = """Classifies images.

A request has one image, or several as a form of files. The answer has an item for each, in their order. **An image
that cannot be read** is refused with 422 (413: too many pixels). In a request of several it does not keep the others
from their answers: its item has `error`, with that status, in place of an answer; where none of them can be read, the
status of the request is that of the first."""

REFUSALS = {
    400: "the form is malformed, or the query has a name that is unknown",
    401: "the token is missing or wrong",
    403: "another site asks through a browser",
    408: "the upload took too long",
    413: "too many bytes, pixels or images",
    415: "the body is no image by its Content-Type",
    421: "the Host header names another machine",
    422: "an image cannot be read, or a parameter is wrong",
    503: "too many requests at once, or no answer in time: try again later",
}

FORM = {
    "type": "object",
    "additionalProperties": {"type": "array", "items": {"type": "string", "format": "binary"}},
    "description": "image files, in fields of any name",
}
BODY = {
    "required": True,
    "content": {
        MULTIPART: {"schema": FORM},
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        RAW: {"schema": {"type": "string", "format": "binary"}},
    },
}


def create_app(service: Service) -> FastAPI:
    """Return the application of a service; the caller closes the service after it has ended."""
    app = FastAPI(
        title="FlatNeXt, an image classifier",
        description=DESCRIPTION,
        version=version_of("flatnext"),
        docs_url=None,  # its page loads scripts from elsewhere, and nothing here may
        redoc_url=None,
    )
    _add_errors(app)
    _add_page(app)
    _add_information(app, service)
    _add_predict(app, service)
    app.add_middleware(Guard, settings=service.settings, open_paths=OPEN)
    app.add_middleware(Measured, metrics=service.metrics, paths=PATHS)
    return app


def _add_errors(app: FastAPI) -> None:
    """Give every error one form: `{"detail": "a line"}`."""

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        unknown = next((each for each in error.errors() if each["type"] == "extra_forbidden"), None)
        first = unknown or error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        name = shown(where) if where else "the request"
        if unknown:
            known = ", ".join(Query.model_fields)
            close = " or ".join(alike(unknown["loc"][-1], Query.model_fields))
            meant = f"did you mean {close}? " if close else ""
            return problem(400, f"the query has {name}, which is unknown: {meant}known are {known}")
        return problem(422, f"{name}: {first['msg']}")

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedByStarlette)
        detail, path, headers = error.detail, shown(request.url.path), error.headers
        if error.status_code == 404 and detail == "Not Found":
            detail = f"there is no {path} here: {choose(request.url.path, sorted(PATHS))}"
        if error.status_code == 405:
            # Starlette names the methods of one route, and a path may have two.
            here = (
                route for route in app.routes if isinstance(route, Route) and route.path_regex.match(request.url.path)
            )
            allowed = sorted({method for route in here for method in route.methods or ()})
            headers = {"Allow": ", ".join(allowed)}
            detail = f"{path} does not take {shown(request.method)}: send {' or '.join(allowed)}"
        return problem(error.status_code, detail, headers)

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(RefusedByStarlette, refused)


def _add_page(app: FastAPI) -> None:
    folder = files("flatnext.serve") / "page"

    def add(path: str, content: bytes, media: str) -> None:
        async def file() -> Response:
            return Response(content, media_type=media)

        app.add_api_route(path, file, methods=["GET", "HEAD"], include_in_schema=False)

    for path, (name, media) in PAGE.items():
        add(path, (folder / name).read_bytes(), media)


def _add_information(app: FastAPI, service: Service) -> None:
    manifest, settings = service.manifest, service.settings
    model = ModelInfo(
        name=manifest.name,
        classes=list(manifest.classes),
        image_size=manifest.image_size,
        channels=manifest.channels,
        resize=manifest.resize,
        quantized=manifest.quantized,
        coverage=service.coverage,
        calibration_images=manifest.conformal.images if manifest.conformal else 0,
        samples=len(service.samples),
        limits=Limits(
            bytes=settings.max_bytes,
            pixels=settings.max_pixels,
            images=settings.max_images,
            seconds=settings.timeout,
        ),
        card=manifest.card,
    )
    refused: dict[int | str, dict[str, Any]] = {401: {"model": Problem, "description": REFUSALS[401]}}

    @app.get("/health", summary="Whether the service is up")
    async def health() -> Health:
        return Health()

    @app.get("/model", summary="The model that answers", responses=refused)
    async def info() -> ModelInfo:
        return model

    @app.get("/samples/{index}", summary="An image to try, as PNG", response_class=Response, responses=refused)
    async def sample(index: int) -> Response:
        if not 0 <= index < len(service.samples):
            raise HTTPException(404, f"there is no sample {index}: the model has {len(service.samples)}")
        return Response(service.samples[index], media_type="image/png")

    @app.get("/metrics", summary="Counters in the format of Prometheus", response_class=Response, responses=refused)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    for path, answer in (("/health", health), ("/model", info), ("/samples/{index}", sample), ("/metrics", metrics)):
        app.add_api_route(path, answer, methods=["HEAD"], include_in_schema=False)


def _add_predict(app: FastAPI, service: Service) -> None:
    load = Load(most_requests=WAITING, most_bytes=BODIES * service.settings.max_bytes)
    service.metrics.waiting.set_function(lambda: load.requests)
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "description": text} for status, text in REFUSALS.items()
    }

    @app.post(
        "/predict",
        summary="Classify images",
        response_model=Answers,
        responses=responses,
        openapi_extra={"requestBody": BODY},
    )
    async def predict(request: Request, query: Annotated[Query, InQuery()]) -> Response:
        with load.request() as take:
            return await _answer(request, query, service, take)


async def _answer(request: Request, query: Query, service: Service, take: Take) -> Response:
    try:
        question = service.question(query.top, query.coverage, query.threshold)
    except InputError as error:
        raise HTTPException(422, str(error)) from None
    seconds = service.settings.timeout
    until = asyncio.get_running_loop().time() + seconds
    uploads = await read_uploads(request, service.settings, take)
    try:
        async with asyncio.timeout_at(until):
            outcomes = await service.answer([upload.content for upload in uploads], question)
    except TimeoutError:
        detail = f"no answer in {seconds:g} seconds: try again later, or send fewer images"
        raise HTTPException(503, detail, {"Retry-After": "1"}) from None
    images = [_item(*pair, query) for pair in zip(uploads, outcomes, strict=True)]
    if all(image.error for image in images):
        first = images[0].error
        assert first is not None
        raise HTTPException(first.status, first.detail)
    answers = Answers(
        model=service.manifest.name, coverage=question.coverage, threshold=question.threshold, images=images
    )
    return Response(answers.model_dump_json(), media_type="application/json")


def _item(upload: Upload, outcome: Outcome, query: Query) -> ImageAnswer:
    if isinstance(outcome, PictureError):
        status = 413 if isinstance(outcome, TooLargeError) else 422
        return ImageAnswer(file=upload.name, error=ImageProblem(status=status, detail=_why(outcome)))
    prediction, activation = outcome
    return ImageAnswer.of(upload.name, prediction, activation if query.map else None)


def _why(error: PictureError) -> str:
    return f"the image cannot be read: {error.reason}"
