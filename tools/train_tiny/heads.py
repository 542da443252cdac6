"""The three MTP heads: trained to predict the output of the frozen trunk, the main model.

Source: SGLang's mimo_v2_nextn.py for the computation. The loss is different from the paper's, whose
heads learn the text: these learn the distribution of the trunk, since a draft token is useful only
if the trunk agrees with it.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.mimo_v2_flash import modeling_mimo_v2_flash as mimo

from . import schedule, trunk
from .shape import NUM_MTP_HEADS, SLIDING
from .windows import Windows

__all__ = ["Head", "draft_logits", "load", "train"]

STEPS, WARM_UP, ROWS, SEED = 300, 30, 2, 20260102
EVERY = 50


class Head(nn.Module):
    """One MTP head, with the parameter names of the hub's files.

    Parameters
    ----------
    config
        Config of the trunk. The head has the attention of its sliding layers and the FFN of its
        dense layer.
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

    def forward(self, embedded: Tensor, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Return the hidden states for the shared LM head, [B, T, D].

        `hidden` has the trunk's hidden states before its final norm, and `embedded` the embeddings
        of later tokens: 1 later for the first head, 2 and 3 for the others.
        """
        x = self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(hidden)], dim=-1))
        x = x + self.self_attn(self.input_layernorm(x), position_embeddings=rotary)[0]
        x = x + self.mlp(self.pre_mlp_layernorm(x))
        return self.final_layernorm(x)


def load(work: Path, model: Any) -> nn.ModuleList:
    """Return the trained MTP heads of `work`."""
    heads = new_heads(model)
    heads.load_state_dict(torch.load(work / "heads.pt", weights_only=True)["model"])
    return heads.eval()


def new_heads(model: Any) -> nn.ModuleList:
    """Return untrained MTP heads for the trunk `model`."""
    torch.manual_seed(SEED)
    return nn.ModuleList(Head(model.config) for _ in range(NUM_MTP_HEADS))


def train(work: Path) -> None:
    """Train the heads into `heads.pt`, with the log `heads.jsonl`; continue if they exist."""
    model = trunk.load(work).requires_grad_(False)
    heads = new_heads(model)
    run = schedule.TrainingRun(work / "heads", heads, warm_up=WARM_UP, length=STEPS)
    windows = Windows(work / "train.npy", ROWS, SEED)
    for step in run.steps():
        losses, agreements = [], []
        with schedule.autocast():
            pairs = draft_logits(heads, model, *windows.of_step(step))
        for draft, target in ((one.float(), other.float()) for one, other in pairs):
            log_draft, log_target = draft.log_softmax(-1), target.log_softmax(-1)
            losses.append(
                functional.kl_div(log_draft, log_target, log_target=True, reduction="none")
            )
            agreements.append((draft.argmax(-1) == target.argmax(-1)).float().mean().item())
        loss = sum(each.sum(-1).mean() for each in losses)
        loss.backward()
        if (step + 1) % EVERY == 0:
            figures = {f"agreement_{index + 1}": each for index, each in enumerate(agreements)}
            run.log(step, loss=loss.item(), **figures)


def draft_logits(
    heads: nn.ModuleList, model: Any, inputs: Tensor, targets: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Return, for each head, its logits and the trunk's logits of the same tokens, [B, n, vocab].

    Head k reads the trunk's hidden states at a position and the token k + 1 positions later; it
    predicts the token after that one.
    """
    hidden_states: list[Tensor] = []
    hook = model.model.norm.register_forward_pre_hook(lambda _, args: hidden_states.append(args[0]))
    with torch.no_grad():
        trunk_logits = model(inputs, use_cache=False).logits
    hook.remove()
    (hidden,) = hidden_states
    positions = torch.arange(inputs.shape[1])[None]
    rotary = model.model.rotary_emb(hidden, positions, SLIDING)
    outputs = []
    for index, head in enumerate(heads):
        later = functional.pad(targets[:, index:], (0, index))  # outputs of padding are dropped
        logits = model.lm_head(head(model.model.embed_tokens(later), hidden, rotary))
        outputs.append((logits[:, : -1 - index], trunk_logits[:, 1 + index :]))
    return outputs
