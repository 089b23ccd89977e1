"""The server's counters, for Prometheus."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # bounds of the histograms
OTHER = "other"  # label of any path that the server does not have: a client can't make up labels


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter("onestage_requests", "Answered requests.", ["path", "status"], registry=registry)
        self._request_seconds = Histogram(
            "onestage_request_seconds", "Seconds until the answer.", ["path"], buckets=SECONDS, registry=registry
        )
        self._images = Counter("onestage_images", "Images in requests.", ["outcome"], registry=registry)
        self._waiting = Gauge("onestage_waiting_images", "Images that have no answer yet.", registry=registry)
        self._batch_images = Histogram(
            "onestage_batch_images", "Images in a batch.", buckets=(1, 2, 4, 8, 16, 32), registry=registry
        )
        self._batch_seconds = Histogram(
            "onestage_batch_seconds", "Seconds of the network for a batch.", buckets=SECONDS, registry=registry
        )

    def count_images(self, *, read: int, unreadable: int) -> None:
        """Count the images of a request."""
        self._images.labels("read").inc(read)
        self._images.labels("unreadable").inc(unreadable)

    def count_batch(self, images: int, seconds: float) -> None:
        """Count a batch that the network has done."""
        self._batch_images.observe(images)
        self._batch_seconds.observe(seconds)

    def text(self, *, waiting_images: int) -> bytes:
        """All counters in Prometheus's text format."""
        self._waiting.set(waiting_images)
        return generate_latest(self._registry)

    def measured(self, app: ASGIApp, paths: frozenset[str]) -> ASGIApp:
        """ASGI middleware that counts and times requests by path and status."""

        async def measured_app(scope: Scope, receive: Receive, send: Send) -> None:
            began, path = time.monotonic(), scope["path"] if scope.get("path") in paths else OTHER

            async def counted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    self._requests.labels(path, message["status"]).inc()
                    self._request_seconds.labels(path).observe(time.monotonic() - began)
                await send(message)

            await app(scope, receive, counted)

        return measured_app
