"""Where an autoscaler reads metrics: one interface, and the three metrics APIs behind it.

The APIs are served by others (metrics-server, adapters) and aggregated; while one is not there, every question to it fails
with the words that upstream's client has for that.

Source: k8s.io/metrics pkg/apis/{metrics,custom_metrics,external_metrics}; pkg/controller/podautoscaler/metrics/client.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import urlencode

import msgspec

from kaa.api import quantity
from kaa.api.clock import parse_time
from kaa.api.custom import CustomObject
from kaa.api.durations import parse_seconds
from kaa.api.errors import ApiError, Forbidden, NotFound
from kaa.api.resources import Resource
from kaa.api.types.autoscaling_v2 import CrossVersionObjectReference
from kaa.client.client import Client

from .autoscaling_replicas import NoMetrics, PodMetric

POD_METRICS: Resource[Any] = Resource(
    "metrics.k8s.io", "v1beta1", "pods", "PodMetrics", True, "podmetrics", verbs=("get", "list"), custom=True
)
CUSTOM = "/apis/custom.metrics.k8s.io/v1beta2"
UNKNOWN = "the server could not find the requested resource"


class MetricsSource(Protocol):
    """Amounts are thousandths. Selectors are text. Each call raises NoMetrics with what to tell users."""

    async def resource(
        self, resource: str, namespace: str, selector: str, container: str = ""
    ) -> Mapping[str, PodMetric]:
        """{pod: its use of a resource}, of all its containers or one."""
        ...

    async def pods(
        self, metric: str, namespace: str, selector: str, metric_selector: str
    ) -> Mapping[str, PodMetric]: ...

    async def object(
        self, metric: str, namespace: str, described: CrossVersionObjectReference, plural: str, metric_selector: str
    ) -> int: ...

    async def external(self, metric: str, namespace: str, metric_selector: str) -> list[int]: ...


class ApiMetrics:
    """The metrics APIs, as the API server serves or aggregates them."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def resource(self, resource: str, namespace: str, selector: str, container: str = "") -> dict[str, PodMetric]:
        what = "unable to fetch metrics from resource metrics API"
        try:
            items = (await self._client.list(POD_METRICS, namespace, label_selector=selector)).items
        except NotFound as err:
            raise NoMetrics(f"{what}: {UNKNOWN} (get pods.metrics.k8s.io)") from err
        except (ApiError, OSError, TimeoutError) as err:
            raise NoMetrics(f"{what}: {err}") from err
        if not items:
            raise NoMetrics("no metrics returned from resource metrics API")
        return pod_metrics((_document(item) for item in items), resource, container)

    async def pods(self, metric: str, namespace: str, selector: str, metric_selector: str) -> dict[str, PodMetric]:
        query = {"labelSelector": selector, "metricLabelSelector": metric_selector}
        items = await self._custom(f"/namespaces/{namespace}/pods/*/{metric}", query)
        return {
            item["describedObject"]["name"]: PodMetric(
                quantity.millis(item["value"]),
                parse_time(item["timestamp"]),
                float(item.get("windowSeconds") or 60),
            )
            for item in items
        }

    async def object(
        self, metric: str, namespace: str, described: CrossVersionObjectReference, plural: str, metric_selector: str
    ) -> int:
        where = f"/namespaces/{namespace}/{plural}/{described.name}/{metric}"
        items = await self._custom(where, {"metricLabelSelector": metric_selector})
        return quantity.millis(items[0]["value"])

    async def _custom(self, path: str, query: Mapping[str, str]) -> list[Any]:
        what = "unable to fetch metrics from custom metrics API"
        asked = urlencode({key: word for key, word in query.items() if word})
        try:
            answer = await self._client.raw("GET", f"{CUSTOM}{path}" + (f"?{asked}" if asked else ""))
        except (NotFound, Forbidden) as err:
            raise NoMetrics(f"{what}: no custom metrics API (custom.metrics.k8s.io) registered") from err
        except (ApiError, OSError, TimeoutError) as err:
            raise NoMetrics(f"{what}: {err}") from err
        found: list[Any] = msgspec.json.decode(answer).get("items") or []
        if not found:
            raise NoMetrics("no metrics returned from custom metrics API")
        return found

    async def external(self, metric: str, namespace: str, metric_selector: str) -> list[int]:
        what = "unable to fetch metrics from external metrics API"
        row: Resource[Any] = Resource(
            "external.metrics.k8s.io", "v1beta1", metric, "ExternalMetricValue", True, metric, custom=True
        )
        try:
            items = (await self._client.list(row, namespace, label_selector=metric_selector)).items
        except NotFound as err:
            raise NoMetrics(f"{what}: {UNKNOWN} (get {metric}.external.metrics.k8s.io)") from err
        except (ApiError, OSError, TimeoutError) as err:
            raise NoMetrics(f"{what}: {err}") from err
        if not items:
            raise NoMetrics("no metrics returned from external metrics API")
        return [quantity.millis(_document(item)["value"]) for item in items]


def _document(item: CustomObject) -> dict[str, Any]:
    return item.document()


def pod_metrics(documents: Iterable[Mapping[str, Any]], resource: str, container: str = "") -> dict[str, PodMetric]:
    """{pod: its use}; pods with a container of which nothing is said are left out. Raises NoMetrics for one without the
    container that is asked for."""
    found: dict[str, PodMetric] = {}
    for document in documents:
        meta = document["metadata"]
        containers = document.get("containers") or []
        if container:
            containers = [each for each in containers if each["name"] == container]
            if not containers:
                where = f"pod {meta.get('namespace', '')}/{meta['name']}"
                raise NoMetrics(f"container {container} not present in metrics for {where}")
        amounts = [each.get("usage", {}).get(resource) for each in containers]
        if None in amounts:
            continue
        value = sum(quantity.millis(amount) for amount in amounts if amount is not None)
        window = str(document.get("window", "60s"))
        found[meta["name"]] = PodMetric(value, parse_time(document["timestamp"]), parse_seconds(window))
    return found
