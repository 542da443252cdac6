"""Metrics: the names that dashboards read, with the label of the model."""

from prometheus_client.parser import text_string_to_metric_families

from mimo_v2_flash.engine.memory_budget import MemoryUsage
from mimo_v2_flash.engine.stats import StatsRecorder
from mimo_v2_flash.expert_store import StoreStats
from mimo_v2_flash.serving.metrics import Metrics

USAGE = MemoryUsage(0, 0, 0, 0, None)


def read(metrics):
    """Return the values by name and labels, but for the histograms' buckets."""
    return {
        (
            sample.name,
            sample.labels.get("finished_reason", sample.labels.get("position")),
        ): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if "le" not in sample.labels and sample.labels["model_name"] == "tiny"
    }


def test_requests_are_counted_by_reason_and_measured():
    metrics = Metrics("tiny", lambda: StatsRecorder().snapshot(2, 3, 100, USAGE))
    metrics.first_token(0.25)
    metrics.next_token(0.125)
    metrics.finished("stop", 10, 4, 1.5)
    metrics.finished("stop", 10, 4, 0.5)
    metrics.finished("length", 1, 1, 1.0)
    values = read(metrics)
    assert values["vllm:num_requests_running", None] == 2
    assert values["vllm:num_requests_waiting", None] == 3
    assert values["vllm:request_success_total", "stop"] == 2
    assert values["vllm:request_success_total", "length"] == 1
    assert values["vllm:time_to_first_token_seconds_sum", None] == 0.25
    assert values["vllm:inter_token_latency_seconds_sum", None] == 0.125
    assert values["vllm:e2e_request_latency_seconds_count", None] == 3
    assert values["vllm:request_prompt_tokens_sum", None] == 21
    assert values["vllm:request_generation_tokens_sum", None] == 9
    assert ("vllm:prompt_tokens_total", None) in values
    assert ("vllm:generation_tokens_total", None) in values


def test_the_phases_of_an_answer_are_its_time():
    metrics = Metrics("tiny", lambda: StatsRecorder().snapshot(0, 0, 0, USAGE))
    metrics.phases(0.25, 1.0, 3.0, completion_tokens=5)
    metrics.phases(0.5, 0.25, 0.25, completion_tokens=1)  # of two threads' clocks
    values = read(metrics)
    sums = {
        "queue_time": 0.75,
        "prefill_time": 0.75,
        "decode_time": 2.0,
        "inference_time": 2.75,
        "time_per_output_token": 0.5,
    }
    for name, seconds in sums.items():
        assert values[f"vllm:request_{name}_seconds_sum", None] == seconds
        assert values[f"vllm:request_{name}_seconds_count", None] == 2
    assert values["vllm:num_preemptions_total", None] == 0


def test_memory_and_known_prefixes_are_counted():
    usage = MemoryUsage(10, 15, 25, 30, 100)
    stats = StatsRecorder().snapshot(0, 0, 0, usage)._replace(prefill_tokens=30, reused_tokens=10)
    values = read(Metrics("tiny", lambda: stats))
    assert values["vllm:kv_cache_usage_perc", None] == 0.25
    assert values["vllm:prefix_cache_queries_total", None] == 40
    assert values["vllm:prefix_cache_hits_total", None] == 10
    unlimited = Metrics("tiny", lambda: StatsRecorder().snapshot(0, 0, 0, USAGE))
    assert read(unlimited)["vllm:kv_cache_usage_perc", None] == 0


def test_drafts_are_counted_as_vllm_does():
    stats = StatsRecorder().snapshot(0, 0, 0, USAGE)
    stats = stats._replace(drafted=(10, 9, 4), accepted=(6, 3, 1))
    values = read(Metrics("tiny", lambda: stats))
    name = "vllm:spec_decode_num"
    assert values[f"{name}_drafts_total", None] == 10
    assert values[f"{name}_draft_tokens_total", None] == 23
    assert values[f"{name}_accepted_tokens_total", None] == 10
    by_position = [values[f"{name}_accepted_tokens_per_pos_total", str(head)] for head in range(3)]
    assert by_position == [6, 3, 1]


def test_an_expert_store_is_counted_where_there_is_one():
    snapshot = StatsRecorder().snapshot(0, 0, 0, USAGE)
    assert not any("expert" in name for name, _ in read(Metrics("tiny", lambda: snapshot)))
    store = StoreStats("lfu", True, 30, 10, 4, 2, 5_000, 1.25, 390, 400, 800)
    values = read(Metrics("tiny", lambda: snapshot._replace(expert_cache=store)))
    assert values["mimo:expert_cache_queries_total", None] == 40
    assert values["mimo:expert_cache_hits_total", None] == 30
    assert values["mimo:expert_cache_read_bytes_total", None] == 5_000
    assert values["mimo:expert_cache_wait_seconds_total", None] == 1.25
    assert values["mimo:expert_cache_bytes", None] == 390
