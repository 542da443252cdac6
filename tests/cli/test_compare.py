"""A comparison of traces names the first tensor that diverges, and refuses other traces."""

from collections.abc import Callable
from dataclasses import replace
from weakref import ref

import numpy as np
import pytest

from mimo_v2_flash.cli import compare
from mimo_v2_flash.tracing.trace_file import write_trace
from mimo_v2_flash.tracing.trace_prompt import trace_prompt
from mimo_v2_flash.tracing.trace_tensors import sort_key
from tests.support.tiny import random_tokens, tiny

MODEL = tiny()
TOKENS = random_tokens(MODEL, 9)
EXPERT = "layers.1.feed_forward.expert"

Trace = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def trace() -> Trace:
    return trace_prompt(MODEL.weights, MODEL.config, TOKENS)


@pytest.fixture
def compared(trace, tmp_path, capsys) -> Callable[..., tuple[int, str]]:
    """Return exit status and output of the comparison of the trace with a changed one."""

    def run(b: Trace, *, tolerance: float = 1e-3, a: Trace = trace) -> tuple[int, str]:
        paths = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
        for path, tensors in zip(paths, (a, b), strict=True):
            write_trace(path, tensors, MODEL.config)
        status = compare.run(*paths, tolerance).status
        return status, capsys.readouterr().out

    return run


def moved(trace: Trace, name: str, share: float, token: int = 0) -> Trace:
    """Return `trace` with one number of `name` moved by a share of the tensor's range."""
    tensor = trace[name].copy()
    tensor[(token, *np.zeros(tensor.ndim - 1, int))] += share * np.ptp(tensor)
    return trace | {name: tensor}


def verdict(output: str) -> str:
    return output.splitlines()[-1]


def row(output: str, name: str) -> list[str]:
    return next(line.split() for line in output.splitlines() if line.split()[:1] == [name])


def test_a_trace_agrees_with_itself(trace, compared):
    status, output = compared(trace)
    assert status == 0
    assert verdict(output).startswith(f"A and B agree in {len(trace) - 2} tensors; ")
    assert "0.0e+00 of the range" in verdict(output)
    assert "DIVERGES" not in output
    rows = [each for each in map(sort_key, output.split()) if each]
    assert rows[:-1] == sorted(rows[:-1])  # the verdict names a tensor once more
    assert len(rows[:-1]) == len(trace) - 2


def test_any_tensor_alone_is_found_at_its_token(trace, compared):
    one_layer = [name for name in trace if "layers" not in name or "layers.1" in name]
    for name in set(one_layer) - {"tokens", "positions", EXPERT}:
        status, output = compared(moved(trace, name, 0.02, token=5))
        assert status == 1
        size = f"{row(output, name)[2]} of its range, first at token 5; "
        before = "everything before agrees within 0.0e+00"
        before = "nothing is before" if name == "embedding" else before
        assert verdict(output) == f"first divergence: {name}, {size}{before}"
        assert output.count("DIVERGES") == 1


def test_of_many_the_first_in_the_order_of_computing_is_named(trace, compared):
    b = trace
    for name in ("logits", "layers.3.attention.norm", "layers.2.attention.value"):
        b = moved(b, name, 0.5)
    b = moved(b, "layers.1.attention.query", 4e-4)
    status, output = compared(b)
    assert status == 1
    assert verdict(output).startswith("first divergence: layers.2.attention.value, ")
    assert verdict(output).endswith("everything before agrees within 4.0e-04")
    assert output.count("DIVERGES") == 3


def test_the_tolerance_is_given(trace, compared):
    for tolerance, status in ((1e-2, 1), (3e-2, 0)):
        assert compared(moved(trace, "logits", 0.02), tolerance=tolerance)[0] == status
    for tolerance in (-1.0, np.nan):
        with pytest.raises(ValueError, match=f"--tolerance {tolerance} must be 0 or more"):
            compared(trace, tolerance=tolerance)


def test_the_order_of_chosen_experts_means_nothing(trace, compared):
    flipped = {name: np.flip(trace[name], 1) for name in trace if name.startswith(EXPERT)}
    assert len(flipped) == 3
    assert compared(trace | flipped)[0] == 0
    _, output = compared(trace | {EXPERT: flipped[EXPERT]})
    assert verdict(output).startswith(f"first divergence: {EXPERT}_weight")


def test_another_expert_is_a_divergence_whatever_is_allowed(trace, compared):
    other = trace[EXPERT].copy()
    other[4, 0] = np.setdiff1d(np.arange(MODEL.config.n_routed_experts), other[4])[0]
    status, output = compared(trace | {EXPERT: other}, tolerance=10.0)
    assert status == 1
    assert verdict(output).startswith(
        f"first divergence: {EXPERT}, 1 of 9 tokens chose other experts, first at token 4; "
    )
    assert row(output, f"{EXPERT}_weight")[4:6] == ["tokens", "left"]


def test_without_ids_what_experts_say_is_not_compared(trace, compared):
    lacking = {name: tensor for name, tensor in trace.items() if name != EXPERT}
    status, output = compared(moved(lacking, f"{EXPERT}_weight", 0.5))
    assert status == 0
    assert "only in A: layers.*.feed_forward.expert (1)" in output
    for name in ("weight", "output"):
        assert f"not compared: layers.*.feed_forward.expert_{name} (1)" in output
    assert f"agree in {len(trace) - 5} tensors" in verdict(output)


def test_ids_that_are_no_integers_are_refused(trace, compared):
    with pytest.raises(ValueError, match=f"b.safetensors: {EXPERT} is float32, expected integers"):
        compared(trace | {EXPERT: trace[EXPERT] / 2})


def test_what_only_one_has_is_listed_and_skipped(trace, compared):
    lacking = {name: tensor for name, tensor in trace.items() if not name.endswith("log_sum")}
    layers = len(MODEL.config.layers)
    for a, b, letter in ((trace, lacking, "A"), (lacking, trace, "B")):
        status, output = compared(b, a=a)
        assert status == 0
        assert f"only in {letter}: layers.*.attention.log_sum ({layers})" in output
        assert f"agree in {len(lacking) - 2} tensors" in output


def test_names_of_no_trace_are_listed_and_skipped(trace, compared):
    status, output = compared(trace | {"x": np.ones(3)}, a=trace | {"x": np.zeros(3)})
    assert status == 0
    assert "not compared: x (1)" in output


def test_nan_diverges_and_is_said(trace, compared):
    name = "layers.2.attention.heads"
    status, output = compared(moved(trace, name, np.nan, token=3))
    assert status == 1
    size = "inf of its range, 0 not finite in A, 1 in B, first at token 3"
    assert verdict(output).startswith(f"first divergence: {name}, {size}")


def test_other_tokens_are_refused(trace, compared):
    other = np.where(np.arange(len(TOKENS)) == 3, 99, TOKENS)
    with pytest.raises(
        ValueError, match=rf"tokens differ at index 3: {TOKENS[3]} in .*a\.saf.* 99 in"
    ):
        compared(trace | {"tokens": other})


def test_other_shapes_are_refused(trace, compared):
    with pytest.raises(ValueError, match=r"logits is \(9, \d+\) in .*, but \(1, 9, \d+\) in .*b\."):
        compared(trace | {"logits": trace["logits"][None]})
    shorter = {name: tensor[:-1] for name, tensor in trace.items()}
    with pytest.raises(ValueError, match=r"tokens is \(9,\) in .*, but \(8,\) in"):
        compared(shorter)


def test_nothing_in_common_is_refused(trace, compared):
    with pytest.raises(ValueError, match=r"a\.safetensors and .*b\.safetensors have no tensor"):
        compared({"tokens": trace["tokens"], "x": np.ones(3)})


def test_configs_that_differ_are_said(trace, tmp_path, capsys):
    paths = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path, theta in zip(paths, (10.0, 20.0), strict=True):
        write_trace(path, trace, replace(MODEL.config, rope_theta=theta))
    assert compare.run(*paths, 1e-3).status == 0
    assert "configs differ: rope_theta is 10.0 in A, 20.0 in B" in capsys.readouterr().out


def test_tensors_are_in_memory_by_pairs(trace, tmp_path, monkeypatch):
    path, reads, alive = tmp_path / "a.safetensors", [], []
    write_trace(path, trace, MODEL.config)
    read = compare.TraceFile.__getitem__

    def counting_read(file, name: str) -> np.ndarray:
        tensor = read(file, name)
        reads.append((name, sum(earlier() is not None for earlier in alive)))
        alive.append(ref(tensor))
        return tensor

    monkeypatch.setattr(compare.TraceFile, "__getitem__", counting_read)
    compare.run(path, path, 1e-3)
    assert {name for name, _ in reads} == set(trace)
    assert max(count for _, count in reads) <= 3  # expert outputs of A and B, and ids
