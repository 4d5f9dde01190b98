"""The metrics that Prometheus reads at `/metrics`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from bitmar.serve.home import Home
from bitmar.serve.pool import Pool

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Metrics:
    """The figures of one server; several in one process do not meet."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, home: Home, pool: Pool) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "bitmar_requests_total", "Requests answered.", ["method", "path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "bitmar_request_seconds", "From a request's first byte to its answer's last.", ["path"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.tokens = Counter("bitmar_tokens_total", "Tokens read and written.", ["kind"], registry=registry)
        for name, text, read in (
            ("bitmar_engine_requests", "Requests in the engine or before it.", lambda: pool.held),
            ("bitmar_reloads", "Models loaded since the start, after the first.", lambda: home.reloads),
            ("bitmar_reload_failed", "1 while the last reload was an error.", lambda: home.trouble is not None),
            ("bitmar_uptime_seconds", "Since the start.", lambda: home.about()["uptime"]),
        ):
            Gauge(name, text, registry=registry).set_function(read)

    def text(self) -> bytes:
        """All of them, in Prometheus' format."""
        return generate_latest(self._registry)
