"""Page of the metrics: each family that the server shows to Prometheus, from its registry."""

from prometheus_client.parser import text_string_to_metric_families

from mimo_v2_flash.engine.memory_budget import MemoryUsage
from mimo_v2_flash.engine.stats import EngineStats, StatsRecorder
from mimo_v2_flash.expert_store import StoreStats
from mimo_v2_flash.serving.metrics import Metrics

from .markdown import table

__all__ = ["metrics_page"]

BEGINNING = """# Metrics

`GET /metrics` of `mimo serve`, in Prometheus's text format ([serving](../serving.md)). Times are in
seconds, sizes in bytes. Those that begin with `mimo:expert_cache` are there with `--expert-cache`
alone.

"""


def metrics_page() -> str:
    """Return the page."""
    metrics = Metrics("", _statistics)
    metrics.finished("stop", 1, 1, 0.0)  # a counter with labels is shown once it has counted
    text = metrics.render().decode()
    families = [f for f in text_string_to_metric_families(text) if not f.name.endswith("_created")]
    rows = [(f"`{_name(f)}`", f.type, ", ".join(_labels(f)), f.documentation) for f in families]
    return BEGINNING + table(("metric", "type", "labels", "meaning"), sorted(rows))


def _statistics() -> EngineStats:
    """Return statistics of an engine that has an expert store and one draft."""
    store = StoreStats("lfu", True, *[0] * (len(StoreStats._fields) - 2))
    stats = StatsRecorder().snapshot(0, 0, 0, MemoryUsage(0, 0, 0, 0, None))
    return stats._replace(drafted=(1,), accepted=(1,), expert_cache=store)


def _name(family: object) -> str:
    """Return the name as it is shown: a counter's ends in _total."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def _labels(family: object) -> list[str]:
    return sorted({f"`{name}`" for s in family.samples for name in s.labels if name != "le"})
