"""The three MTP heads: trained to say what the trunk, which rests, will say a few tokens on.

Source of the computation: SGLang's mimo_v2_nextn.py; of the loss: the paper's heads learn the text,
these the trunk's own distribution, since a draft is worth as much as the trunk agrees with it.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.mimo_v2_flash import modeling_mimo_v2_flash as mimo

from . import schedule, trunk
from .shape import NUM_MTP_LAYERS, SLIDING
from .windows import Windows

__all__ = ["Head", "load", "seen_by", "train"]

STEPS, WARM_UP, ROWS, SEED = 300, 30, 2, 20260102
EVERY = 50


class Head(nn.Module):
    """One predictor, with the parameter names of the hub's files.

    Parameters
    ----------
    config
        Of the trunk; attention is that of its sliding layers, the network that of its dense one.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        D, epsilon = config.hidden_size, config.rms_norm_eps
        for name in ("enorm", "hnorm", "input_layernorm", "pre_mlp_layernorm", "final_layernorm"):
            self.add_module(name, mimo.MiMoV2FlashRMSNorm(D, epsilon))
        self.eh_proj = nn.Linear(2 * D, D, bias=False)
        self.self_attn = mimo.MiMoV2FlashAttention(config, config.layer_types.index(SLIDING))
        self.mlp = mimo.MiMoV2FlashMLP(config)
        for weight in (each for each in self.parameters() if each.ndim == 2):
            nn.init.normal_(weight, std=config.initializer_range)
        nn.init.zeros_(self.self_attn.sinks)

    def forward(self, embedded: Tensor, hidden: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """Return what the shared head turns into logits, [B, T, D].

        `embedded` are the tokens that follow those of `hidden`, the trunk's stream before its last
        norm.
        """
        x = self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(hidden)], dim=-1))
        x = x + self.self_attn(self.input_layernorm(x), position_embeddings=turn)[0]
        x = x + self.mlp(self.pre_mlp_layernorm(x))
        return self.final_layernorm(x)


def load(work: Path, model: Any) -> nn.ModuleList:
    """Return the trained heads of `work`."""
    heads = new_heads(model)
    heads.load_state_dict(torch.load(work / "heads.pt", weights_only=True)["model"])
    return heads.eval()


def new_heads(model: Any) -> nn.ModuleList:
    """Return untrained heads of the trunk `model`."""
    torch.manual_seed(SEED)
    return nn.ModuleList(Head(model.config) for _ in range(NUM_MTP_LAYERS))


def train(work: Path) -> None:
    """Train, and leave `heads.pt` and `heads.jsonl`, their log; go on where either lies."""
    model = trunk.load(work).requires_grad_(False)
    heads = new_heads(model)
    pace = schedule.Pace(work / "heads", heads, warm_up=WARM_UP, length=STEPS)
    windows = Windows(work / "train.npy", ROWS, SEED)
    for step in pace.steps():
        losses, agreements = [], []
        with schedule.narrow():
            pairs = seen_by(heads, model, *windows.of_step(step))
        for guess, truth in ((one.float(), other.float()) for one, other in pairs):
            log_guess, log_truth = guess.log_softmax(-1), truth.log_softmax(-1)
            losses.append(
                functional.kl_div(log_guess, log_truth, log_target=True, reduction="none")
            )
            agreements.append((guess.argmax(-1) == truth.argmax(-1)).float().mean().item())
        loss = sum(each.sum(-1).mean() for each in losses)
        loss.backward()
        if (step + 1) % EVERY == 0:
            figures = {f"agreement_{index + 1}": each for index, each in enumerate(agreements)}
            pace.note(step, loss=loss.item(), **figures)


def seen_by(
    heads: nn.ModuleList, model: Any, given: Tensor, target: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Return, for each head, its logits and the trunk's logits of the same tokens, [B, n, vocab].

    Head k reads the trunk's stream at a token and the token k + 1 further; it guesses the next.
    """
    streams: list[Tensor] = []
    hook = model.model.norm.register_forward_pre_hook(lambda _, inputs: streams.append(inputs[0]))
    with torch.no_grad():
        truth = model(given, use_cache=False).logits
    hook.remove()
    (hidden,) = streams
    places = torch.arange(given.shape[1])[None]
    turn = model.model.rotary_emb(hidden, places, SLIDING)
    answers = []
    for index, head in enumerate(heads):
        ahead = functional.pad(target[:, index:], (0, index))  # padding's answers are cut off
        logits = model.lm_head(head(model.model.embed_tokens(ahead), hidden, turn))
        answers.append((logits[:, : -1 - index], truth[:, 1 + index :]))
    return answers
