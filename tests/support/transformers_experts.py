"""Router, experts and MoE block of transformers' MiMo, with the weights of a test layer."""

from typing import Any

import pytest


def modeling() -> Any:
    """Return the modeling module of transformers, or skip the test."""
    pytest.importorskip("torch")
    return pytest.importorskip("transformers.models.mimo_v2_flash.modeling_mimo_v2_flash")


def config(layer, *, experts_per_token=1, scaling=1.0) -> Any:
    """Return a config with the shapes of `layer`."""
    E, F, D = layer.w_gate_EFD.shape
    made = modeling().MiMoV2FlashConfig(
        hidden_size=D,
        intermediate_size=F,
        moe_intermediate_size=F,
        n_routed_experts=E,
        num_experts_per_tok=experts_per_token,
        routed_scaling_factor=scaling,
    )
    made._experts_implementation = (
        "eager"  # other implementations need rows of multiples of 16 bytes
    )
    return made


def router(layer, **choice) -> Any:
    """Return MiMoV2FlashTopkRouter: x -> (logits, weights, experts)."""
    torch = pytest.importorskip("torch")
    module = modeling().MiMoV2FlashTopkRouter(config(layer, **choice))
    module.weight.data = torch.tensor(layer.w_router_ED)
    module.e_score_correction_bias.data = torch.tensor(layer.bias_E)
    return module


def experts(layer) -> Any:
    """Return MiMoV2FlashExperts: (x, experts, weights) -> y."""
    torch = pytest.importorskip("torch")
    module = modeling().MiMoV2FlashExperts(config(layer))
    gate_and_up = torch.tensor(layer.w_gate_EFD), torch.tensor(layer.w_up_EFD)
    module.gate_up_proj.data = torch.cat(gate_and_up, dim=1)
    module.down_proj.data = torch.tensor(layer.w_down_EDF)
    return module


def mixture(layer, **choice) -> Any:
    """Return MiMoV2FlashMoE: x -> y."""
    module = modeling().MiMoV2FlashMoE(config(layer, **choice))
    module.gate, module.experts = router(layer, **choice), experts(layer)
    return module
