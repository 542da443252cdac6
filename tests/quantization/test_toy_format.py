"""A format made outside the package: the registry is all that it needs to be loaded, prepared, run.

Matmul weights are int8 codes under names of their own, with a float32 scale for each row. Nothing
in the package knows of it, and it has neither compiled loops nor a traced product.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mimo_v2_flash import MiMoV2FlashModel, load_weights
from mimo_v2_flash.checkpoint.param_specs import MULTIPLIED
from mimo_v2_flash.checkpoint.params import MoEWeights, nbytes
from mimo_v2_flash.checkpoint.subset import shard_weights
from mimo_v2_flash.cli.main import main
from mimo_v2_flash.convert import plan as conversion_tasks
from mimo_v2_flash.execution.pytree import tree_leaves
from mimo_v2_flash.kernels import ops
from mimo_v2_flash.layers.device_layout import to_device_layout
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig, all_shard_specs
from mimo_v2_flash.quantization import QuantizedTensor, StoredTensor, register_format, registry
from tests.support.tiny import Recipe, Tiny, random_tokens, running, tiny

MODEL = tiny(Recipe(experts=8, dense_width=28))


@dataclass(frozen=True)
class Int8Rows(QuantizedTensor):
    """int8 codes [..., O, I] and a scale for each row [..., O]."""

    code: np.ndarray
    row_scale: np.ndarray

    format = "toy int8"
    tensors = (
        StoredTensor("code", "qcode", np.int8),
        StoredTensor("row_scale", "qscale", np.float32),
    )

    @property
    def shape(self):
        return self.code.shape

    def dequantize(self, rows=slice(None)):
        return self.code[..., rows, :].astype(np.float32) * self.row_scale[..., rows, None]

    def shard(self, axis, indices):
        part = slice(indices.start, indices.stop)
        if axis == 0:
            return Int8Rows(self.code[part], self.row_scale[part])
        return Int8Rows(np.ascontiguousarray(self.code[:, part]), self.row_scale)

    @classmethod
    def from_checkpoint(cls, where, shape, arrays):
        if arrays["code"].shape != shape:
            raise ValueError(f"{where} is {arrays['code'].shape}, the config asks for {shape}")
        return cls(**arrays)


def quantize(w_OI: np.ndarray) -> Int8Rows:
    row_scale = np.max(np.abs(w_OI), axis=1) / np.float32(127)
    return Int8Rows(np.rint(w_OI / row_scale[:, None]).astype(np.int8), row_scale)


@pytest.fixture(scope="module", autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "FORMATS", dict(registry.FORMATS))
        yield register_format(Int8Rows)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, registered):
    """Return the folders of one checkpoint twice: in the toy format, and dequantised in float32."""
    saved, toy, plain = (tmp_path_factory.mktemp(name) for name in ("saved", "toy", "plain"))
    MODEL.oracle.save_pretrained(saved)
    in_toy, in_float32 = {}, {}
    for name, array in load_file(saved / "model.safetensors").items():
        if not name.endswith(MULTIPLIED):
            in_toy[name] = in_float32[name] = array
            continue
        w = quantize(array)
        stem = name.removesuffix("weight")
        in_toy |= {f"{stem}qcode": w.code, f"{stem}qscale": w.row_scale}
        in_float32[name] = w.dequantize()
    save_file(in_toy, toy / "model.safetensors")
    save_file(in_float32, plain / "model.safetensors")
    return toy, plain


@pytest.fixture(scope="module")
def models(folders) -> tuple[Tiny, Tiny]:
    weights = (load_weights(folder, MODEL.config) for folder in folders)
    toy, plain = (MODEL._replace(weights=w) for w in weights)
    return toy, plain


def assert_same(logits_BTV, expected_BTV) -> None:
    allowed = 1e-5 * np.ptp(expected_BTV)
    np.testing.assert_allclose(logits_BTV, expected_BTV, rtol=0, atol=allowed)


def test_it_is_loaded_as_stored(models):
    toy, plain = models
    layer = toy.weights.layers[1]
    assert isinstance(layer.feed_forward, MoEWeights)
    expert = layer.feed_forward.experts[3]
    for w in (*layer.attention[:4], *expert, toy.weights.w_logits_VD):
        assert isinstance(w, Int8Rows)
        assert w.nbytes == w.shape[0] * (w.shape[1] + 4)
    of_plain = plain.weights.layers[1].feed_forward.experts[3]
    np.testing.assert_array_equal(expert.w_down_DF.dequantize(), of_plain.w_down_DF)
    assert nbytes(toy.weights.layers) < nbytes(plain.weights.layers) / 2


def test_its_logits_are_those_of_the_dequantised_model(models):
    token_BT = random_tokens(MODEL, 2, 11)
    logits_BTV, expected_BTV = (running(model).forward(token_BT) for model in models)
    assert_same(logits_BTV, expected_BTV)


@pytest.mark.parametrize("plan", [ParallelConfig(2, 1, 2), ParallelConfig(2, 2)], ids=str)
def test_its_logits_are_the_same_on_two_ranks(models, folders, plan):
    """Experts, heads and the vocabulary are split: rows are views, columns are copies."""
    token_BT = random_tokens(MODEL, 2, 11)
    expected_BTV, group = running(models[1]).forward(token_BT), ThreadGroup(2)

    def on_rank(rank: int) -> np.ndarray:
        weights = load_weights(folders[0], MODEL.config, share=plan.shard_spec(rank))
        model = MiMoV2FlashModel(weights, MODEL.config, group=group, plan=plan)
        assert len(model.weights.layers[1].feed_forward.experts) == 4
        return model.forward(token_BT)

    for logits_BTV in group.run(on_rank):
        assert_same(logits_BTV, expected_BTV)


PREPARE = ["--dtype", "fp8"], ["--dtype", "bfloat16"], ["--target", "trainium2"]


@pytest.mark.parametrize("options", PREPARE, ids=" ".join)
def test_it_is_prepared_as_stored_or_dequantized(folders, tmp_path, options, monkeypatch):
    """The option's word for what is kept as stored is fp8, as it is in the hub's format."""
    monkeypatch.setattr(conversion_tasks, "TASK_BYTES", 300)  # several tasks per tensor
    prepare(folders[0], tmp_path / "out", options)
    weights = load_weights(tmp_path / "out", MODEL.config)
    stored = load_weights(folders[0], MODEL.config)
    for actual, expected in zip(
        weights.layers[1].attention, stored.layers[1].attention, strict=True
    ):
        if not isinstance(expected, Int8Rows):
            np.testing.assert_array_equal(actual, expected)
        elif "bfloat16" in options:
            dequantized = expected.dequantize().astype(ml_dtypes.bfloat16)
            np.testing.assert_array_equal(actual, dequantized)
        else:
            np.testing.assert_array_equal(actual.code, expected.code)
            np.testing.assert_array_equal(actual.row_scale, expected.row_scale)


def test_it_is_prepared_in_shards(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion_tasks, "TASK_BYTES", 300)
    prepare(folders[0], tmp_path / "out", ["--expert-parallel", "2", "--tensor-parallel", "2"])
    whole = load_weights(folders[0], MODEL.config)
    for shard_spec in all_shard_specs(2, 2):
        shard = load_weights(tmp_path / "out", MODEL.config, share=shard_spec)
        expected = shard_weights(whole, MODEL.config, shard_spec)
        expected = tree_leaves(expected._replace(prepared=shard.prepared), leaf=Int8Rows)
        for name, w in tree_leaves(shard, leaf=Int8Rows).items():
            same = expected[name]
            assert type(w) is type(same)
            if isinstance(w, Int8Rows):
                np.testing.assert_array_equal(w.code, same.code)
                np.testing.assert_array_equal(w.row_scale, same.row_scale)


def test_a_scale_that_is_no_number_is_refused_when_it_is_prepared(folders, tmp_path, capsys):
    tensors = load_file(folders[0] / "model.safetensors")
    tensors[f"{HEAD}qscale"][3] = np.nan
    (tmp_path / "in").mkdir()
    save_file(tensors, tmp_path / "in" / "model.safetensors")
    (tmp_path / "in" / "config.json").write_text(json.dumps(MODEL.config.to_dict()))
    assert (
        main(["prepare", "--checkpoint", str(tmp_path / "in"), "--output", str(tmp_path / "o")])
        == 2
    )
    expected = "model.safetensors: lm_head.weight: its qscale holds NaN or infinity"
    assert expected in capsys.readouterr().err


def prepare(source: Path, output: Path, options: list[str]) -> None:
    """Run `mimo prepare` in this process, and expect that it succeeds."""
    (source / "config.json").write_text(json.dumps(MODEL.config.to_dict()))
    assert main(["prepare", "--checkpoint", str(source), "--output", str(output), *options]) == 0


def test_it_is_stacked_for_a_device(models):
    experts = models[0].weights.layers[1].feed_forward.experts
    stacked = to_device_layout(models[0].weights).layers[1].feed_forward.experts
    assert stacked.w_up_eFD.shape == (8, *experts[0].w_up_FD.shape)
    np.testing.assert_array_equal(stacked[5].w_up_FD.code, experts[5].w_up_FD.code)


def test_a_large_weight_is_multiplied_too():
    generator = np.random.default_rng(0)
    w = quantize(generator.standard_normal((900, 700), np.float32))
    x_NI = generator.standard_normal((40, 700), np.float32)
    expected_NO = x_NI.astype(np.float64) @ w.dequantize().astype(np.float64).T
    np.testing.assert_allclose(ops.matmul(x_NI, w), expected_NO, rtol=0, atol=1e-3)


def changed(tensors, name, change):
    return tensors | {name: change(tensors[name])}


HEAD = "lm_head."
REFUSED = {
    "codes of another dtype": (
        lambda t: changed(t, f"{HEAD}qcode", lambda a: a.view(np.uint8)),
        r"lm_head\.weight: its qcode is uint8, expected int8, as toy int8 is stored",
    ),
    "another shape": (
        lambda t: changed(t, f"{HEAD}qcode", lambda a: a[1:].copy()),
        r"lm_head\.weight is \(60, 23\), the config asks for \(61, 23\)",
    ),
    "no scales": (
        lambda t: {name: a for name, a in t.items() if name != f"{HEAD}qscale"},
        r"lm_head\.weight: 1 tensor missing",
    ),
    "a plain array beside it": (
        lambda t: t | {f"{HEAD}weight": np.ones((61, 23), np.float32)},
        r"lm_head\.weight: 1 tensor unexpected",
    ),
    "a table that is looked up": (
        lambda t: (
            {n: a for n, a in t.items() if n != "model.embed_tokens.weight"}
            | {
                "model.embed_tokens.qcode": np.ones((61, 23), np.int8),
                "model.embed_tokens.qscale": np.ones(61, np.float32),
            }
        ),
        r"model\.embed_tokens\.weight is toy int8, which only matmul weights may be",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_by_name(folders, tmp_path, change, message):
    save_file(change(load_file(folders[0] / "model.safetensors")), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_weights(tmp_path, MODEL.config)
