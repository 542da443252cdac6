"""examples/trace_transformers.py: all tensors agree, and a fault is located where it was made."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from examples import trace_transformers, transformers_model
from mimo_v2_flash import MiMoConfig, load_weights
from mimo_v2_flash.cli import compare
from mimo_v2_flash.tracing.trace_file import open_trace, write_trace
from mimo_v2_flash.tracing.trace_prompt import trace_prompt
from tests.support.hub_checkpoint import RECIPE, oracle_of, write_hub_checkpoint
from tests.support.tiny import random_tokens, tiny

ROOT = Path(__file__).parents[1]
CONFIG = tiny(RECIPE).config
TOKENS = random_tokens(tiny(RECIPE), 20)
ALLOWED = "1e-5"  # of the range, where there is no fault
KINDS = transformers_model.KINDS


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return write_hub_checkpoint(tiny(RECIPE).oracle, tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def ours(hub, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ours") / "ours.safetensors"
    write_trace(path, trace_prompt(load_weights(hub.folder, CONFIG), CONFIG, TOKENS), CONFIG)
    return path


def loaded(hub) -> Any:
    return transformers_model.load(hub.folder, MiMoConfig.from_pretrained(hub.folder))


def compared(model: Any, ours: Path, capsys, tolerance: float) -> tuple[int, list[str]]:
    """Return exit status and lines of `compare` with a trace of transformers' `model`."""
    theirs = ours.with_name("theirs.safetensors")
    write_trace(theirs, trace_transformers.trace(model, TOKENS.tolist()), CONFIG)
    status = compare.run(ours, theirs, tolerance).status
    return status, capsys.readouterr().out.splitlines()


def test_the_model_is_the_checkpoints(hub):
    actual, expected = (
        model.state_dict() for model in (loaded(hub), oracle_of(tiny(RECIPE).oracle, hub))
    )
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], weight) for name, weight in expected.items())


def test_every_tensor_agrees(hub, ours, capsys):
    status, output = compared(loaded(hub), ours, capsys, float(ALLOWED))
    assert status == 0, output
    assert not [line for line in output if "only in" in line or "not compared" in line]
    with open_trace(ours) as trace:
        assert f"agree in {len(trace.shapes) - 2} tensors" in output[-1]


def change_rope(model: Any, **changes: Any) -> None:
    """Change the rotary parameters of the sliding layers."""
    config = model.config
    parameters = config.rope_parameters
    config.rope_parameters = parameters | {KINDS[1]: parameters[KINDS[1]] | changes}
    model.model.rotary_emb = type(model.model.rotary_emb)(config)


def each(model: Any, change: Callable[[Any], None]) -> None:
    for layer in model.model.layers:
        change(layer)


def of_gates(change: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda model: each(
        model, lambda layer: change(layer.mlp.gate) if hasattr(layer.mlp, "gate") else None
    )


# Layer 0 is full and dense, 1 sliding and sparse, 2 full and sparse; the window is 5.
FAULTS: dict[str, tuple[Callable[[Any], Any], str, int]] = {
    "values are not scaled": (
        lambda m: each(m, lambda layer: setattr(layer.self_attn, "v_scale", 1.0)),
        "layers.0.attention.value", 0,
    ),
    "no sinks": (
        lambda m: each(m, lambda layer: setattr(layer.self_attn, "sinks", None)),
        "layers.1.attention.log_sum", 0,
    ),
    "the full layers' theta in all": (
        lambda m: change_rope(m, rope_theta=CONFIG.rope_theta),
        "layers.1.attention.query_rotated", 1,
    ),
    "all channels rotated": (
        lambda m: change_rope(m, partial_rotary_factor=1.0),
        "layers.1.attention.query_rotated", 1,
    ),
    "the window one key less": (
        lambda m: setattr(m.config, "sliding_window", CONFIG.sliding_window - 1),
        "layers.1.attention.log_sum", CONFIG.sliding_window - 1,
    ),
    "the selection bias ignored": (
        of_gates(lambda gate: gate.e_score_correction_bias.zero_()),
        "layers.1.feed_forward.expert", -1,
    ),
    "weights not normalised": (
        of_gates(lambda gate: setattr(gate, "norm_topk_prob", False)),
        "layers.1.feed_forward.expert_weight", 0,
    ),
    "epsilon 1e-2": (
        lambda m: each(m, lambda layer: setattr(layer.input_layernorm, "variance_epsilon", 1e-2)),
        "layers.0.attention.norm", 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_located(hub, ours, capsys, fault):
    make, name, token = FAULTS[fault]
    model = loaded(hub)
    make(model)
    status, output = compared(model, ours, capsys, 1e-3)
    assert status == 1
    assert output[-1].startswith(f"first divergence: {name}, ")
    assert token < 0 or f"first at token {token};" in output[-1]
    agreement = float(output[-1].rsplit(maxsplit=1)[1])
    assert agreement < float(ALLOWED)


def test_the_hubs_config_is_translated():
    config = transformers_model.native(CONFIG)
    assert config.layer_types == [KINDS[sliding] for sliding in CONFIG.hybrid_layer_pattern]
    expected = tiny(RECIPE).oracle.config
    for name in transformers_model.SAME:
        assert getattr(config, name) == getattr(expected, name), name
    for kind in KINDS:
        assert config.rope_parameters[kind] == expected.rope_parameters[kind]


def test_it_runs_as_a_script(hub, ours, tmp_path):
    theirs = tmp_path / "theirs.safetensors"
    command = [sys.executable, "-m", "examples.trace_transformers", "--model", str(hub.folder)]
    command += ["--output", str(theirs), "--like", str(ours)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    assert compare.run(ours, theirs, float(ALLOWED)).status == 0
    with open_trace(theirs) as trace:
        assert trace.made_by == f"transformers {transformers.__version__}"
        np.testing.assert_array_equal(trace["tokens"], TOKENS)
