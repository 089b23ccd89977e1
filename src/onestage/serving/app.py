"""The server: images in a request, their detections in the answer. How to use it: docs/serve.md."""

from __future__ import annotations

import hmac
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from onestage.drawing import class_color
from onestage.inference.base_predictor import BasePredictor
from onestage.runtime import __version__
from onestage.runtime.decode import ImageError
from onestage.runtime.image_header import TooManyPixelsError
from onestage.serving.limits import Limits, RefusedError
from onestage.serving.measures import MeasuredRequests, Measures
from onestage.serving.page_files import FILES, add_page
from onestage.serving.schema import DETECT_REQUEST, DETECT_RESPONSES, ImageDetections, ModelFacts
from onestage.serving.shared_predictor import Looked, SharedPredictor
from onestage.serving.uploads import BodyReader, Upload, uploads

LOWEST_THRESHOLD, USUAL_THRESHOLD = 0.05, 0.5  # of scores: what a client can ask for, what it gets
PATHS = frozenset({*FILES, "/v1/detect", "/v1/model", "/healthz", "/metrics", "/openapi.json"})
PNG = "image/png"

log = logging.getLogger("onestage.serving")


def create_app(
    predictor: BasePredictor,
    *,
    token: str | None = None,
    limits: Limits | None = None,
    batch_size: int = 8,
) -> FastAPI:
    """The ASGI application of a model, for any ASGI server (in one process: its batches are shared there).

    Args:
        predictor: of `onestage.load`; its selection's score threshold becomes the lowest that clients may ask for.
        token: that clients must send as `Authorization: Bearer TOKEN`; None: none is asked for.
        limits: on what clients may send.
        batch_size: images of several requests that go through the network together, at most.
    """
    predictor.selection = replace(predictor.selection, score_threshold=LOWEST_THRESHOLD)
    server = Server(predictor, limits or Limits(), batch_size)
    app = FastAPI(
        title="onestage",
        version=__version__,
        description="Detects objects in images.",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        lifespan=server.lifespan,
    )
    _answer_errors_in_one_sentence(app)
    guarded = [Depends(_token_guard(token))] if token is not None else []
    app.post(
        "/v1/detect",
        dependencies=guarded,
        response_model=list[ImageDetections],
        response_model_exclude_unset=True,
        responses=DETECT_RESPONSES,
        openapi_extra=DETECT_REQUEST,
    )(server.detect)
    app.get("/v1/model", dependencies=guarded)(server.model)
    app.get("/metrics", dependencies=guarded, response_class=Response)(server.metrics)
    app.get("/healthz")(server.health)
    add_page(app)
    app.add_middleware(MeasuredRequests, measures=server.measures, paths=PATHS)
    return app


class Server:
    """What the routes share."""

    def __init__(self, predictor: BasePredictor, limits: Limits, batch_size: int) -> None:
        self.measures = Measures()
        self._predictor, self._limits, self._batch_size = predictor, limits, batch_size
        self._bodies = BodyReader(limits)

    @asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        """The threads live as long as the server."""
        self._shared = SharedPredictor(
            self._predictor, self._limits, batch_size=self._batch_size, on_batch=self.measures.count_batch
        )
        self.measures.watch(self._shared)
        try:
            yield
        finally:
            await run_in_threadpool(self._shared.close)

    async def detect(
        self,
        request: Request,
        score_threshold: Annotated[float, Query(ge=LOWEST_THRESHOLD, le=1.0)] = USUAL_THRESHOLD,
    ) -> Response:
        """Detect objects in one image, or in several.

        An image that can't be read among others that can has an `error` in the place of its detections. With
        `Accept: image/png` the answer is the one image, drawn.
        """
        drawn = _wants_png(request)
        # The body is read even where the answer will be 503: a connection closed over unread bytes loses the answer.
        async with self._bodies.body(request) as body:
            images = await run_in_threadpool(uploads, request.headers.get("content-type", ""), body, self._limits)
            if drawn and len(images) > 1:
                raise RefusedError(400, f"{len(images)} images can't be one PNG; send one, or accept JSON")
            looked = await self._shared.look_at([image.content for image in images])
            self._count(looked)
            _refuse_if_none_was_read(images, looked)
            timing = {"Server-Timing": _server_timing(looked)}
            if drawn and isinstance(looked[0], Looked):
                png = await self._shared.draw(images[0].content, looked[0].found.filter(score=score_threshold))
                return Response(png, media_type=PNG, headers=timing)
        answers = [_in_json(image, one, score_threshold) for image, one in zip(images, looked, strict=True)]
        return JSONResponse(answers, headers=timing)

    async def model(self) -> ModelFacts:
        """What runs here, and what it takes."""
        names = self._predictor.categories.names
        return ModelFacts(
            detector=self._predictor.detector_name,
            names=list(names),
            colours=["#{:02x}{:02x}{:02x}".format(*class_color(label)) for label in range(len(names))],
            lowest_score_threshold=LOWEST_THRESHOLD,
            usual_score_threshold=USUAL_THRESHOLD,
            largest_request_bytes=self._limits.body_bytes,
            largest_image_pixels=self._limits.pixels,
            images_of_a_request=self._limits.images,
            version=__version__,
        )

    async def health(self) -> Response:
        """200 while the network answers, else 503."""
        healthy = self._shared.healthy
        return JSONResponse({"status": "ok" if healthy else "the network does not answer"}, 200 if healthy else 503)

    async def metrics(self) -> Response:
        """Counters in Prometheus's text format."""
        return Response(self.measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _count(self, looked: Sequence[Looked | ImageError]) -> None:
        read = sum(isinstance(one, Looked) for one in looked)
        self.measures.images.labels("read").inc(read)
        self.measures.images.labels("unreadable").inc(len(looked) - read)


def _wants_png(request: Request) -> bool:
    accepted = request.headers.get("accept", "").lower()
    return PNG in accepted and "application/json" not in accepted


def _in_json(image: Upload, looked: Looked | ImageError, score_threshold: float) -> dict[str, Any]:
    if isinstance(looked, ImageError):
        return {"source": image.name, "error": _sentence(image, looked)}
    height, width = looked.size_hw
    detections = looked.found.filter(score=score_threshold).to_dict()
    return {"source": image.name, "width": width, "height": height, "detections": detections}


def _refuse_if_none_was_read(images: Sequence[Upload], looked: Sequence[Looked | ImageError]) -> None:
    failures = [one for one in looked if isinstance(one, ImageError)]
    if len(failures) == len(looked):
        status = 413 if isinstance(failures[0], TooManyPixelsError) else 422
        raise RefusedError(status, _sentence(images[0], failures[0]))


def _sentence(image: Upload, error: ImageError) -> str:
    text = str(error)
    return f"{image.name}: {text.removeprefix('image: ')}" if image.name else text


def _server_timing(looked: Sequence[Looked | ImageError]) -> str:
    """As browsers show it (W3C Server Timing): the longest of the request's images, milliseconds."""
    done = [one for one in looked if isinstance(one, Looked)]
    wait, network = max(one.wait_ms for one in done), max(one.network_ms for one in done)
    return f"wait;dur={wait:.1f}, network;dur={network:.1f}"


def _token_guard(token: str) -> Any:
    expected = f"Bearer {token}".encode()

    async def guard(request: Request) -> None:
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, expected):
            raise RefusedError(401, "a token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})

    return guard


def _answer_errors_in_one_sentence(app: FastAPI) -> None:
    """`{"error": "..."}` whatever went wrong; what only we can mend goes to the log."""

    def sentence(status: int, text: str, headers: Any = None) -> JSONResponse:
        return JSONResponse({"error": text}, status, headers)

    @app.exception_handler(RefusedError)
    async def refused(_request: Request, error: RefusedError) -> Response:
        return sentence(error.status, error.sentence, error.headers)

    @app.exception_handler(RequestValidationError)
    async def wrong_value(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return sentence(422, f"{first['loc'][-1]}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def no_such_route(_request: Request, error: HTTPException) -> Response:
        return sentence(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(_request: Request, _error: ClientDisconnect) -> Response:
        return sentence(400, "the client went away")

    @app.exception_handler(Exception)
    async def ours(_request: Request, error: Exception) -> Response:
        log.error("a request failed", exc_info=error)
        return sentence(500, "the server failed with this request; its log says why")
