"""The server: images in a request, their detections in the answer. How to use it: docs/serve.md.

Pydantic's models are for the OpenAPI document and `/v1/model`; detections are written without them.
"""

import asyncio
import hmac
import logging
import random
import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from onestage.drawing import class_color
from onestage.inference.predictor import BasePredictor
from onestage.runtime import __version__
from onestage.runtime.decode import ImageError, TooManyPixelsError
from onestage.serving.drawn_images import PNG, DrawnImages
from onestage.serving.hosts import HostCheck
from onestage.serving.limits import REFUSAL_SECONDS, Limits, busy
from onestage.serving.metrics import Metrics
from onestage.serving.shared_predictor import ImageResult, SharedPredictor
from onestage.serving.uploads import BodyReader, Upload
from onestage.structures import Detections

LOWEST_THRESHOLD = 0.05  # the lowest score threshold that a client can ask for
PARAMETERS = {"score_threshold", "model"}  # of an address that detects

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {"/": ("index.html", "text/html"), "/page.css": ("page.css", "text/css")}
PAGE_FILES |= {f"/{script.name}": (script.name, "text/javascript") for script in sorted(PAGE.glob("*.js"))}
PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

log = logging.getLogger("onestage.serving")


Model = Literal["first", "second"]
ModelOfRequest = Annotated[Model, Query(description="which model, where the server compares two")]


class ServedModel(NamedTuple):
    """A model, and from which scores on clients get its detections where they ask for no score."""

    title: str
    predictor: BasePredictor
    usual_thresholds: list[float]  # one a class, by label

    @classmethod
    def of(cls, title: str, predictor: BasePredictor) -> "ServedModel":
        """A model with the score thresholds that it had; it is set to keep all that a client may ask for."""
        asked = predictor.selection
        usual = asked.class_thresholds or [asked.score_threshold] * len(predictor.categories)
        predictor.selection = asked.changed(score_threshold=LOWEST_THRESHOLD)
        return cls(title, predictor, [max(score, LOWEST_THRESHOLD) for score in usual])

    def chosen(self, found: Detections, score: float | None) -> Detections:
        """Detections with a score above this one, or for None above their own class's threshold."""
        return found.filter(score=self.usual_thresholds if score is None else score)


class Detection(BaseModel):
    """One detected object."""

    name: str
    label: int
    score: float
    probability: float | None = Field(None, description="that it is right; null for a model without calibration")
    box_xyxy: tuple[float, float, float, float] = Field(description="pixels of the upright image")


class ImageDetections(BaseModel):
    """One image of a request, as in `detections.json`."""

    source: str = Field(description="the file's name in the form; empty where the body is the image")
    width: int = Field(0, description="pixels of the upright image")
    height: int = 0
    detections: list[Detection] = []
    error: str = Field("", description="why this image of several can't be read; it has no detections then")


class ModelFacts(BaseModel):
    """The model, and the bounds on requests."""

    title: str = Field(description="what people call it: its run or its file")
    detector: str
    names: list[str] = Field(description="names of the classes, by label")
    colours: list[str] = Field(description="colours of the classes in drawn images: #rrggbb")
    lowest_score_threshold: float
    usual_score_threshold: float = Field(description="the lowest of the usual ones")
    usual_score_thresholds: list[float] = Field(description="of clients that ask for none, one a class, by label")
    models: list[Model] = Field(description="what `model` of a request may be")
    largest_request_bytes: int
    largest_image_pixels: int
    images_of_a_request: int
    version: str


class Failure(BaseModel):
    """The reason why there are no detections."""

    error: str


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"schema": {"type": "object", "properties": {"images": {"type": "array", "items": _BINARY["schema"]}}}}
_FAILURES = {
    400: "no image, or a form that can't be read",
    401: "no token, or a wrong one",
    403: "a host or an origin that is not this server's",
    408: "the body came too slowly",
    413: "too many bytes, pixels or images",
    422: "no image that can be read, or a wrong value",
    503: "the server is busy; Retry-After says when to come again",
}

DETECT_REQUEST: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One image (JPEG, PNG, WebP, BMP, TIFF, GIF), or several in a form, in fields of any name.",
        "content": {"image/*": _BINARY, "application/octet-stream": _BINARY, "multipart/form-data": _FORM},
    }
}
DETECT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": _BINARY}, "description": "One entry an image, or the one image drawn."},
    **{status: {"model": Failure, "description": text} for status, text in _FAILURES.items()},
}


def create_app(
    predictor: BasePredictor,
    *,
    token: str | None = None,
    second: BasePredictor | None = None,
    titles: tuple[str, str] = ("first", "second"),
    limits: Limits | None = None,
    batch_size: int = 8,
    allowed_hosts: Sequence[str] | None = None,
) -> FastAPI:
    """The ASGI application of a model, for any ASGI server (in one process: its batches are shared there).

    Args:
        predictor: a predictor of `onestage.load`. Its score thresholds hold for clients that ask for none; from now on
            it gives all that any may ask for.
        token: secret that clients must send as `Authorization: Bearer TOKEN`; None: no secret is needed.
        second: another model to compare with it, within the same limits; its selection is treated as the first's.
        titles: what the page calls the two.
        limits: bounds on what clients may send.
        batch_size: most images that go through the network together; they may come from several requests.
        allowed_hosts: names by which clients may call the server (see `HostCheck`); None: any.
    """
    models: dict[Model, ServedModel] = {"first": ServedModel.of(titles[0], predictor)}
    if second is not None:
        models["second"] = ServedModel.of(titles[1], second)
    server = Server(models, limits or Limits(), batch_size)

    async def guard(request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), f"{token}".encode()):
            raise HTTPException(401, "a token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})

    app = FastAPI(
        title="onestage",
        version=__version__,
        description="Detects objects in images.",
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        lifespan=server.lifespan,
        # Open to all: the page asks for the token itself. A response is an ASGI application, as a route wants.
        routes=[Route(path, _page_file(*file), methods=["GET"]) for path, file in PAGE_FILES.items()],
        exception_handlers={
            kind: _error_as_json
            for kind in (RequestValidationError, HTTPException, ClientDisconnect, MemoryError, Exception)
        },
    )
    guarded = [Depends(guard)] if token is not None else []
    app.post(
        "/v1/detect",
        dependencies=guarded,
        response_model=list[ImageDetections],
        responses=DETECT_RESPONSES,
        openapi_extra=DETECT_REQUEST,
    )(server.detect)
    app.get("/v1/model", dependencies=guarded)(server.model)
    app.get("/metrics", dependencies=guarded, response_class=Response)(server.metrics)
    app.get("/healthz")(server.health)
    paths = frozenset({*PAGE_FILES, "/v1/detect", "/v1/model", "/healthz", "/metrics", "/openapi.json"})
    app.add_middleware(HostCheck, allowed_hosts=allowed_hosts)
    app.add_middleware(server.counters.measured, paths=paths)  # the outermost
    return app


def _page_file(name: str, media_type: str) -> Response:
    return Response((PAGE / name).read_bytes(), media_type=media_type, headers=PAGE_HEADERS)


class Server:
    """The routes, and what they share. While the server runs, `app.state.shared` is the `SharedPredictor`."""

    def __init__(self, models: Mapping[Model, ServedModel], limits: Limits, batch_size: int) -> None:
        self.counters = Metrics()
        self._models, self._limits, self._batch_size = models, limits, batch_size
        self._bodies, self._drawn = BodyReader(limits), DrawnImages(limits)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Keep the network's threads as long as the server runs."""
        warnings.filterwarnings("ignore", module="PIL")  # of each odd tag: strangers would fill a disk with the log
        app.state.shared = SharedPredictor(
            self._models["first"].predictor,
            self._limits,
            batch_size=self._batch_size,
            on_batch=self.counters.count_batch,
        )
        try:
            yield
        finally:
            await run_in_threadpool(app.state.shared.close)

    async def detect(
        self,
        request: Request,
        score_threshold: Annotated[float | None, Query(ge=LOWEST_THRESHOLD, le=1.0)] = None,
        model: ModelOfRequest = "first",
    ) -> Response:
        """Detect objects in one image, or in several.

        Detections have a score above `score_threshold`, or where none is given above that of their class. Of several
        images, one that can't be read has an `error` in the place of its detections. With `Accept: image/png` the
        answer is the one image with its detections drawn on it.
        """
        if unknown := set(request.query_params) - PARAMETERS:
            raise HTTPException(422, f"{min(unknown)}: unknown; the parameters are {', '.join(sorted(PARAMETERS))}")
        accepted = request.headers.get("accept", "").lower()
        drawn = PNG in accepted and "application/json" not in accepted
        shared: SharedPredictor = request.app.state.shared
        # The body is read even where the answer will be 503: a connection closed over unread bytes loses the answer.
        async with self._bodies.images(request) as images:
            served = self._model(model)
            if drawn and len(images) > 1:
                raise HTTPException(400, f"{len(images)} images can't be one PNG; send one, or accept JSON")
            if drawn:
                self._drawn.check_room()
            results = await shared.detect([image.content for image in images], served.predictor)
            done = [one for one in results if isinstance(one, ImageResult)]
            self.counters.count_images(read=len(done), unreadable=len(results) - len(done))
            if not done:
                too_many_pixels = isinstance(results[0], TooManyPixelsError)
                raise HTTPException(413 if too_many_pixels else 422, _with_name(images[0], results[0]))
            # each stage's longest time of an image in milliseconds, which browsers show (W3C Server Timing)
            wait, network = max(one.wait_ms for one in done), max(one.network_ms for one in done)
            timing = {"Server-Timing": f"wait;dur={wait:.1f}, network;dur={network:.1f}"}
            if drawn:
                found, bits = served.chosen(done[0].found, score_threshold), served.predictor.input_bits
                png = await shared.draw(images[0].content, found, bits)
                return self._drawn.answer(png, headers=timing)
        answers = [
            _failed(image, one)
            if isinstance(one, ImageError)
            else _as_json(image, one, served.chosen(one.found, score_threshold))
            for image, one in zip(images, results, strict=True)
        ]
        return JSONResponse(answers, headers=timing)

    def _model(self, model: Model) -> ServedModel:
        if model not in self._models:
            raise HTTPException(422, "model: this server has one model; start it with --compare-with for a second")
        return self._models[model]

    async def model(self, model: ModelOfRequest = "first") -> ModelFacts:
        """The model's name and classes, and the bounds on requests."""
        served = self._model(model)
        names = served.predictor.categories.names
        return ModelFacts(
            title=served.title,
            detector=served.predictor.detector_name,
            names=list(names),
            colours=["#{:02x}{:02x}{:02x}".format(*class_color(label)) for label in range(len(names))],
            lowest_score_threshold=LOWEST_THRESHOLD,
            usual_score_threshold=min(served.usual_thresholds),
            usual_score_thresholds=served.usual_thresholds,
            models=list(self._models),
            largest_request_bytes=self._limits.body_bytes,
            largest_image_pixels=self._limits.pixels,
            images_of_a_request=self._limits.images,
            version=__version__,
        )

    async def health(self, request: Request) -> Response:
        """200 while the network answers, else 503."""
        healthy = request.app.state.shared.healthy
        return JSONResponse({"status": "ok" if healthy else "the network does not answer"}, 200 if healthy else 503)

    async def metrics(self, request: Request) -> Response:
        """Counters in Prometheus's text format."""
        text = self.counters.text(waiting_images=request.app.state.shared.waiting)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _as_json(image: Upload, result: ImageResult, found: Detections) -> dict[str, Any]:
    height, width = result.size_hw
    return {"source": image.name, "width": width, "height": height, "detections": found.to_dict()}


def _failed(image: Upload, error: ImageError) -> dict[str, Any]:
    return {"source": image.name, "error": _with_name(image, error)}


def _with_name(image: Upload, error: object) -> str:
    text = str(error)
    return f"{image.name}: {text.removeprefix('image: ')}" if image.name else text


async def _error_as_json(request: Request, error: Exception) -> Response:
    """Answer an error with `{"error": "one sentence"}`; the server's own failures go to its log."""
    headers = None
    if isinstance(error, HTTPException):
        status, message, headers = error.status_code, str(error.detail), error.headers
    elif isinstance(error, RequestValidationError):
        first = error.errors()[0]
        status, message = 422, f"{first['loc'][-1]}: {first['msg']}"
    elif isinstance(error, MemoryError):
        return await _error_as_json(request, busy("the machine is short of memory"))
    elif isinstance(error, ClientDisconnect):
        status, message = 400, "the client went away"
    else:
        log.error("a request failed", exc_info=error)
        status, message = 500, "the server failed with this request; its log says why"
    if 400 <= status < 500 and request.app.state.shared.waiting:
        # Others first: who is refused comes again at once. Those who are refused together shall not come together.
        await asyncio.sleep(random.uniform(1, 2) * REFUSAL_SECONDS)
    return JSONResponse({"error": message}, status, headers)
