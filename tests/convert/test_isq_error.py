"""Errors of quantization: each weight's is that of the weight quantized as a whole."""

import numpy as np
import pytest

from mimo_v2_flash import load_weights
from mimo_v2_flash.checkpoint.isq_table import IsqRequest
from mimo_v2_flash.checkpoint.source import FolderSource
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.convert.isq_error import plan_errors
from mimo_v2_flash.quantization import get_format
from mimo_v2_flash.quantization.topology import parse_topology
from tests.support.shipped import FOLDER

CONFIG = MiMoConfig.from_pretrained(FOLDER)
NAMES = {
    "model.layers.0.self_attn.k_proj.weight": lambda w: w.layers[0].attention.w_k_OD.dequantize(),
    "model.layers.3.mlp.experts.15.down_proj.weight": lambda w: (
        w.layers[3].feed_forward.experts[15].w_down_DF.dequantize()
    ),
    "lm_head.weight": lambda w: w.w_logits_VD.astype(np.float32),
}


def test_an_error_is_that_of_the_whole_weight():
    done: list[int] = []
    job = plan_errors(FolderSource(FOLDER), CONFIG, IsqRequest.of("8"))
    errors = {error.name: error for error in job.run(done.append)}
    assert sum(done) == job.values.bytes_to_read
    assert len(errors) == 293
    weights = load_weights(FOLDER, CONFIG)
    for name, value_of in NAMES.items():
        exact = value_of(weights).astype(np.float64)
        difference = get_format("q8_0").quantize(exact.astype(np.float32)).dequantize() - exact
        rms = np.linalg.norm(difference) / np.linalg.norm(exact)
        assert errors[name].relative_rms == pytest.approx(rms, rel=1e-6)
        largest = np.abs(difference).max() / np.abs(exact).max()
        assert errors[name].largest_of_range == pytest.approx(largest, rel=1e-6)
        assert errors[name].form == "q8_0"


def test_what_is_not_quantized_has_no_error():
    request = IsqRequest.of(None, parse_topology("/embed_tokens/: {isq: 8}"))
    with pytest.warns(UserWarning, match=r"topology: no rule for layers 0 to 5 \("):
        job = plan_errors(FolderSource(FOLDER), CONFIG, request)
    (error,) = job.run(lambda _: None)
    assert error.name == "model.embed_tokens.weight"
    assert 0 < error.relative_rms < 0.01
