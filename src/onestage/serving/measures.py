"""What the server counts about itself, for Prometheus."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onestage.serving.shared_predictor import SharedPredictor

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # bounds of the histograms
OTHER = "other"  # any path that the server does not have: a client can't make up labels


class Measures:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "onestage_requests", "Requests that were answered.", ["path", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "onestage_request_seconds",
            "From a request's head to its answer.",
            ["path"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.images = Counter("onestage_images", "Images that were looked at.", ["outcome"], registry=self.registry)
        self.batch_images = Histogram(
            "onestage_batch_images", "Images in a batch.", buckets=(1, 2, 4, 8, 16, 32), registry=self.registry
        )
        self.batch_seconds = Histogram(
            "onestage_batch_seconds", "The network's time for a batch.", buckets=SECONDS, registry=self.registry
        )

    def watch(self, shared: SharedPredictor) -> None:
        """Tell how many images wait, whenever somebody asks."""
        gauge = Gauge("onestage_waiting_images", "Images that have no answer yet.", registry=self.registry)
        gauge.set_function(lambda: shared.waiting)

    def count_batch(self, images: int, seconds: float) -> None:
        """A batch is done."""
        self.batch_images.observe(images)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self.registry)


class MeasuredRequests:
    """ASGI middleware: counts and times requests by path and status."""

    def __init__(self, app: ASGIApp, measures: Measures, paths: frozenset[str]) -> None:
        self._app, self._measures, self._paths = app, measures, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, path = time.monotonic(), scope["path"] if scope["path"] in self._paths else OTHER

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._measures.requests.labels(path, message["status"]).inc()
                self._measures.request_seconds.labels(path).observe(time.monotonic() - begun)
            await send(message)

        await self._app(scope, receive, counted)
