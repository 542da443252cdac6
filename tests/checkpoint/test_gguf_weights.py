"""Weights of GGUF files: the model of a file is the model that was written."""

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel, load_weights
from mimo_v2_flash.checkpoint.params import MoEWeights
from mimo_v2_flash.execution.pytree import tree_arrays
from mimo_v2_flash.quantization import get_format
from tests.support.gguf_models import write_tiny
from tests.support.tiny import Recipe, recipes


def rewrite(source, target, change):
    """Copy a GGUF file, with the tensors that `change(name, data, type)` makes of each."""
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(target, "mimo2")
    for field in reader.fields.values():
        if field.name.startswith(("mimo2.", "mimo_v2_flash.", "tokenizer.")):
            sub = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub)
    for tensor in reader.tensors:
        for name, data, kind in change(tensor.name, tensor.data, tensor.tensor_type):
            writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load(path):
    config = MiMoConfig.from_pretrained(path)
    return load_weights(path, config), config


@given(recipe=recipes(), split_bytes=st.sampled_from([0, 3000]))
@settings(max_examples=20)
def test_every_weight_comes_back_to_the_bit(recipe, split_bytes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    before = write_tiny(folder / "tiny.gguf", recipe, split_bytes=split_bytes)
    weights, config = load(min(folder.glob("*.gguf")))
    assert config.layers == before.config.layers
    expected = tree_arrays(before.weights)
    for path, array in tree_arrays(weights).items():
        assert np.array_equal(array, expected[path]), path


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Return a file of a model whose rows hold whole blocks of 32."""
    path = tmp_path_factory.mktemp("wide") / "wide.gguf"
    recipe = Recipe(hidden=64, dense_width=96, expert_width=32, v_head_dim=16, head_dim=16)
    return path, write_tiny(path, recipe)


@pytest.mark.parametrize("kind", ["Q5_0", "MXFP4", "F16"])
def test_weights_in_ggmls_formats_are_what_the_package_dequantises(wide, tmp_path, kind):
    path, _ = wide
    form = gguf.GGMLQuantizationType[kind]

    def change(name, data, stored):
        if data.ndim > 1 and "gate_inp" not in name:
            yield name, gguf.quantize(data, form), form
        else:
            yield name, data, stored

    rewrite(path, tmp_path / "other.gguf", change)
    rewrite(
        path,
        tmp_path / "plain.gguf",
        lambda name, data, stored: [
            (name, gguf.dequantize(d, k) if k == form else d, gguf.GGMLQuantizationType.F32)
            for _, d, k in change(name, data, stored)
        ],
    )
    tokens = [[1, 5, 9, 2, 2, 40]]
    logits = [
        MiMoV2FlashModel(*load(tmp_path / f"{name}.gguf")).forward(tokens)
        for name in ("other", "plain")
    ]
    assert np.abs(logits[0] - logits[1]).max() <= 1e-5 * np.ptp(logits[1])


def test_fused_projections_are_rows_of_one_tensor(wide, tmp_path):
    path, model = wide

    def fuse(name, data, stored):
        if name.endswith("attn_q.weight"):
            others = (tensors[name.replace("attn_q", part)] for part in ("attn_k", "attn_v"))
            yield name.replace("attn_q", "attn_qkv"), np.concatenate([data, *others]), stored
        elif not name.endswith(("attn_k.weight", "attn_v.weight")):
            yield name, data, stored

    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    rewrite(path, tmp_path / "fused.gguf", fuse)
    weights, _ = load(tmp_path / "fused.gguf")
    for layer, expected in zip(weights.layers, model.weights.layers, strict=True):
        assert all(map(np.array_equal, layer.attention, expected.attention))


def test_mtp_blocks_are_left_out_with_a_warning(wide, tmp_path):
    path, model = wide
    last = f"blk.{model.config.num_hidden_layers}"

    def add(name, data, stored):
        yield name, data, stored
        if name == "output.weight":
            yield f"{last}.nextn.eh_proj.weight", data, stored

    rewrite(path, tmp_path / "mtp.gguf", add)
    with pytest.warns(UserWarning, match="1 tensors of MTP blocks left out"):
        assert load(tmp_path / "mtp.gguf")[0].mtp == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, d, k: [] if "attn_k" in n else [(n, d, k)], "blk.0.attn_k.weight and"),
        (lambda n, d, k: [(n, d[:-1] if n == "output.weight" else d, k)], "output.weight is"),
        (lambda n, d, k: [(n, d, k), *([("odd", d, k)] * (n == "output.weight"))], "tensor odd"),
    ],
)
def test_tensors_that_do_not_fit_the_keys_are_named(wide, tmp_path, change, message):
    rewrite(wide[0], tmp_path / "bad.gguf", change)
    with pytest.raises(ValueError, match=rf"bad\.gguf: .*{message}"):
        load(tmp_path / "bad.gguf")


def test_matrices_stay_mapped(wide):
    weights, _ = load(wide[0])
    experts = next(
        layer.feed_forward.experts
        for layer in weights.layers
        if isinstance(layer.feed_forward, MoEWeights)
    )
    for matrix in (weights.embedding_VD, experts[0].w_up_FD):
        base = matrix
        while base.base is not None and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K"])
def test_formats_of_this_package_are_mapped_as_they_are(tmp_path, kind):
    form = gguf.GGMLQuantizationType[kind]
    write_tiny(tmp_path / "wide.gguf", Recipe(hidden=256, dense_width=256, expert_width=256))
    name = "blk.0.ffn_up.weight"
    w = next(t.data for t in gguf.GGUFReader(tmp_path / "wide.gguf").tensors if t.name == name)
    stored = get_format(kind.lower()).quantize(np.array(w))
    rewrite(
        tmp_path / "wide.gguf",
        tmp_path / "other.gguf",
        lambda n, d, k: [(n, stored.data if n == name else d, form if n == name else k)],
    )
    loaded = load(tmp_path / "other.gguf")[0].layers[0].feed_forward.w_up_FD
    assert type(loaded) is type(stored)
    assert np.array_equal(loaded.data, stored.data)
    assert np.array_equal(loaded.dequantize(), gguf.dequantize(stored.data, form))
