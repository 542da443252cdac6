"""Names of tensors are those that the gguf package gives the hub's."""

import gguf
import pytest

from mimo_v2_flash.checkpoint.param_specs import all_params
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.gguf_files.tensor_names import gguf_name

HUB_SPELLING = {  # as llama.cpp's converter renames a name before it looks it up
    "mlp.gate.e_score_correction_bias": "mlp.gate.e_score_correction.bias",
    "self_attn.attention_sink_bias": "self_attn.sinks.weight",
}


def name_of_package(name: str, layers: int) -> str | None:
    for ours, theirs in HUB_SPELLING.items():
        name = name.replace(ours, theirs)
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MIMO2, layers)
    return table.get_name(name.replace("experts.7.", "experts."), try_suffixes=(".weight", ".bias"))


@pytest.mark.parametrize("fused", [False, True])
def test_every_parameter_has_the_packages_name(fused):
    config = MiMoConfig(
        num_hidden_layers=3, hybrid_layer_pattern=(0, 1, 1), moe_layer_freq=(0, 1, 1)
    )
    for name, _ in all_params(config, experts=(7,), fused=fused):
        tensor, expert = gguf_name(name)
        package = name_of_package(name, 3)
        assert tensor == package or "qkv" in name  # the package lists it for other architectures
        assert expert == (7 if "experts" in name else None)


def test_a_parameter_that_mimo2_lacks_is_an_error():
    with pytest.raises(KeyError):
        gguf_name("model.layers.0.self_attn.q_norm.weight")
