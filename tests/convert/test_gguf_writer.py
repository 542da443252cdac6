"""GGUF files that are written: whole or not at all, of the dtype that was asked for."""

import gguf
import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash import MiMoConfig, load_weights
from mimo_v2_flash.convert import gguf_writer
from mimo_v2_flash.convert.gguf_writer import plan_gguf
from tests.support.gguf_models import RECIPE, write_tiny
from tests.support.shipped import FOLDER as CHECKPOINT
from tests.support.tiny import tiny


def test_matrices_have_the_dtype_and_vectors_float32(tmp_path):
    model = write_tiny(tmp_path / "tiny.gguf", dtype="bfloat16")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "tiny.gguf").tensors}
    plain = ("norm.weight", "sinks.weight", "gate_inp.weight", "probs_b.bias")
    for name, tensor in tensors.items():
        assert tensor.tensor_type.name == ("F32" if name.endswith(plain) else "BF16"), name
    embedding = tensors["token_embd.weight"].data.view(ml_dtypes.bfloat16)
    assert np.array_equal(embedding, model.weights.embedding_VD.astype(ml_dtypes.bfloat16))


def test_the_plan_knows_the_bytes(tmp_path):
    model, written = tiny(RECIPE), []
    plan = plan_gguf(tmp_path / "x.gguf", model.config, model.weights, "float32", tmp_path)
    assert plan.write(written.append) == [tmp_path / "x.gguf"]
    assert (
        sum(written)
        == plan.nbytes
        == sum(tensor.n_bytes for tensor in gguf.GGUFReader(tmp_path / "x.gguf").tensors)
    )


def test_an_fp8_weight_is_written_as_its_exact_product(tmp_path):
    path, config = tmp_path / "shipped.gguf", MiMoConfig.from_pretrained(CHECKPOINT)
    weights = load_weights(CHECKPOINT, config)
    plan_gguf(path, config, weights, "float32", CHECKPOINT).write(lambda _: None)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    expert = weights.layers[2].feed_forward.experts[3]
    stored = tensors["blk.2.ffn_down_exps.weight"].data[3]
    assert np.array_equal(stored, expert.w_down_DF.dequantize())


def test_a_run_that_fails_leaves_nothing(tmp_path, monkeypatch):
    model = tiny(RECIPE)
    plan = plan_gguf(tmp_path / "x.gguf", model.config, model.weights, "float32", tmp_path)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf_writer._Stream, "tofile", fail)
    with pytest.raises(OSError, match=r"No space left on device: .*x\.gguf"):
        plan.write(lambda _: None)
    assert list(tmp_path.iterdir()) == []
