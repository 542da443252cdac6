"""Trace a prompt through transformers' MiMo-V2-Flash, with the tensor names of docs/tracing.md.

python run_example.py --mode trace --prompt "A list is" --output ours.safetensors
python -m examples.trace_transformers --like ours.safetensors --output theirs.safetensors
python run_example.py --mode compare ours.safetensors theirs.safetensors
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import masking_utils
from transformers.models.mimo_v2_flash import modeling_mimo_v2_flash as modeling

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.tracing.trace_file import open_trace, write_trace

from .transformers_model import load

TINY = Path(__file__).parent / "mimo-tiny"


def traced_attention(module: Any, q_BHTQ: Any, k_BKTQ: Any, v_BKTC: Any, *args: Any, **kwargs: Any):
    """Return eager attention, and store its inputs and outputs in `module.traced`."""
    y_BTHC, weight_BHTS = modeling.eager_attention_forward(
        module, q_BHTQ, k_BKTQ, v_BKTC, *args, **kwargs
    )
    k_BHTQ = modeling.repeat_kv(k_BKTQ, module.num_key_value_groups)
    score_BHTS = q_BHTQ @ k_BHTQ.transpose(2, 3) * module.scaling
    most_BHT1, key_BHT1 = weight_BHTS.max(dim=-1, keepdim=True)  # weight = exp(score - log_sum)
    log_sum_BHT = (score_BHTS.gather(3, key_BHT1) - most_BHT1.log()).squeeze(3)
    inputs = {"query_rotated": q_BHTQ, "key_rotated": k_BKTQ, "value": v_BKTC}
    module.traced = {name: x.transpose(1, 2)[0] for name, x in inputs.items()}
    module.traced |= {"heads": y_BTHC[0], "log_sum": log_sum_BHT[0].T}
    return y_BTHC, weight_BHTS


def expert_output(module: Any, args: Any, _: Any) -> Any:
    """Return the output of every chosen expert: each pair is computed as a token of weight 1."""
    x_ND, expert_NA, weight_NA = args
    ones_J1, A = torch.ones_like(weight_NA).reshape(-1, 1), expert_NA.shape[1]
    y_JD = module.forward(x_ND.repeat_interleave(A, 0), expert_NA.reshape(-1, 1), ones_J1)
    return y_JD.reshape(-1, A, x_ND.shape[1])


def hook_points(model: Any) -> Iterator[tuple[Any, str, Callable[[Any, Any, Any], Any]]]:
    """Yield (module, tensor name, function of the module, its args and its output)."""

    def output(_: Any, __: Any, y: Any) -> Any:
        return y[0]

    def heads(_: Any, __: Any, y: Any) -> Any:
        return y[0].unflatten(-1, (-1, model.config.head_dim))

    yield model.model.embed_tokens, "embedding", output
    for index, layer in enumerate(model.model.layers):
        attention, ffn = f"layers.{index}.attention", f"layers.{index}.feed_forward"
        yield layer.input_layernorm, f"{attention}.norm", output
        yield layer.self_attn.q_proj, f"{attention}.query", heads
        yield layer.self_attn.k_proj, f"{attention}.key", heads
        for name in ("value", "query_rotated", "key_rotated", "log_sum", "heads"):
            yield layer.self_attn, f"{attention}.{name}", lambda m, _, __, n=name: m.traced[n]
        yield layer.self_attn.o_proj, f"{attention}.output", output
        yield layer.post_attention_layernorm, f"{ffn}.norm", output
        if hasattr(layer.mlp, "gate"):
            yield layer.mlp.gate, f"{ffn}.router_score", lambda _, __, y: y[0].sigmoid()
            yield layer.mlp.gate, f"{ffn}.expert_weight", lambda _, __, y: y[1]
            yield layer.mlp.gate, f"{ffn}.expert", lambda _, __, y: y[2]
            yield layer.mlp.experts, f"{ffn}.expert_output", expert_output
        yield layer.mlp, f"{ffn}.output", output
        yield layer, f"layers.{index}.output", output
    yield model.model.norm, "final_norm", output
    yield model.lm_head, "logits", output


def trace(model: Any, tokens: list[int]) -> dict[str, np.ndarray]:
    """Return the tensors of one prefill, by the names of docs/tracing.md."""
    transformers.AttentionInterface.register("traced", traced_attention)
    transformers.AttentionMaskInterface.register("traced", masking_utils.eager_mask)
    model.set_attn_implementation("traced")
    tensors = {"tokens": np.array(tokens), "positions": np.arange(len(tokens))}

    def register(module: Any, name: str, extract: Callable[[Any, Any, Any], Any]) -> Any:
        def hook(*call: Any) -> None:
            tensors[name] = extract(*call).numpy().copy()

        return module.register_forward_hook(hook)

    hooks = [register(*point) for point in hook_points(model)]
    with torch.no_grad():
        model(torch.tensor([tokens]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return tensors


def main() -> None:
    """Read the command line, trace, and write the trace file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=TINY, help="(examples/mimo-tiny)")
    parser.add_argument("--like", type=Path, required=True, help="trace file whose tokens are used")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    config = MiMoConfig.from_pretrained(options.model)
    with open_trace(options.like) as like:
        tokens = like.integers("tokens").tolist()
    tensors = trace(load(options.model, config), tokens)
    write_trace(options.output, tensors, config, f"transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
