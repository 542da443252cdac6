"""How often the next layer's router, on this layer's stream, guesses what it will choose.

A store that read these experts ahead would have them while the layer before still computes. Two
streams are asked: the one before this layer's feed-forward, which leaves its time and that of the
next attention for reading, and the one behind it, which leaves the attention alone.

python -m benchmarks.expert_guess --model examples/mimo-tiny --text FILE --tokens 2048
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mimo_v2_flash import MiMoConfig, load_weights
from mimo_v2_flash.checkpoint.params import DecoderWeights, ModelWeights, MoEWeights
from mimo_v2_flash.kernels.moe_router import moe_router
from mimo_v2_flash.kernels.rmsnorm import rmsnorm
from mimo_v2_flash.text.tokenizer import load_tokenizer, tokens
from mimo_v2_flash.tracing.trace_prompt import trace_prompt

WINDOW = 512  # tokens of a prompt
FACTORS = (1, 1.5, 2)  # guesses, in experts per token
STREAMS = ("before the feed-forward", "after the layer")


def main() -> None:
    """Trace a text, compare guesses with choices, and print the shares that were right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("examples/mimo-tiny"))
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    config = MiMoConfig.from_pretrained(options.model)
    weights = load_weights(options.model, config)
    token_T = tokens(load_tokenizer(options.model), options.text.read_text())[: options.tokens]
    hits: dict[tuple[str, int, int], list[float]] = {}
    for start in range(0, len(token_T), WINDOW):
        trace = trace_prompt(weights, config, token_T[start : start + WINDOW])
        for key, share in shares(trace, weights, config):
            hits.setdefault(key, []).append(share)
    rows = [
        {"stream": stream, "layer": layer, "guesses": guesses, "right": float(np.mean(values))}
        for (stream, layer, guesses), values in hits.items()
    ]
    report(rows, config)
    if options.output:
        options.output.write_text(json.dumps({"tokens": len(token_T), "rows": rows}, indent=1))


def shares(
    trace: dict[str, np.ndarray], weights: ModelWeights, config: MiMoConfig
) -> Iterator[tuple[tuple[str, int, int], float]]:
    """Yield stream, layer and number of guesses, and the share of choices among the guesses."""
    for layer in range(1, config.num_hidden_layers):
        if not isinstance(weights.layers[layer].feed_forward, MoEWeights):
            continue
        chosen_TA = trace[f"layers.{layer}.feed_forward.expert"]
        after_TD = trace[f"layers.{layer - 1}.output"]
        before_TD = after_TD - trace[f"layers.{layer - 1}.feed_forward.output"]
        for stream, x_TD in zip(STREAMS, (before_TD, after_TD), strict=True):
            for factor in FACTORS:
                number = round(factor * config.num_experts_per_tok)
                guess_TG = guess(x_TD, weights.layers[layer], config, number)
                is_right_TAG = chosen_TA[:, :, None] == guess_TG[:, None, :]
                yield (stream, layer, number), float(is_right_TAG.any(axis=2).mean())


def guess(x_TD: np.ndarray, layer: DecoderWeights, config: MiMoConfig, number: int) -> Any:
    """Return the experts that a layer's router would choose on this stream."""
    mixture: Any = layer.feed_forward
    epsilon = config.layernorm_epsilon
    normed_TD = rmsnorm(x_TD, layer.feed_forward_norm_D, epsilon=epsilon)
    router = mixture.w_router_ED, mixture.bias_E
    return moe_router(normed_TD, *router, experts_per_token=number, scaling=1.0)[1]


def report(rows: list[dict[str, Any]], config: MiMoConfig) -> None:
    """Print the mean over layers, and its range, of each stream and number of guesses."""
    for stream in STREAMS:
        for number in sorted({row["guesses"] for row in rows}):
            values = [
                row["right"] for row in rows if (row["stream"], row["guesses"]) == (stream, number)
            ]
            print(
                f"{stream}: {number} guesses, {np.mean(values):.1%} of the choices "
                f"({min(values):.1%} to {max(values):.1%} by layer), equal odds "
                f"{number / config.n_routed_experts:.1%}"
            )


if __name__ == "__main__":
    main()
