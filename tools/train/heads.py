"""The three MTP heads: trained to predict the output of the frozen trunk, the main model.

Source: SGLang's mimo_v2_nextn.py for the computation. The loss is different from the paper's, whose
heads learn the text: these learn the distribution of the trunk, since a draft token is useful only
if the trunk agrees with it.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from . import schedule, trunk
from .attention import Segments
from .model import Attention, DenseMLP, Linear, RMSNorm, Trunk, compute_dtype, rotary_tables
from .packing import Batch, Batches
from .parallel import PARTS, PartGradients
from .shape import NUM_MTP_HEADS, SLIDING, Shape

__all__ = ["Head", "draft_logits", "load", "new_heads", "train"]

SEED, WARM_UP, EVERY = 20260102, 30, 25


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
            self.add_module(name, RMSNorm(D, epsilon))
        self.eh_proj = Linear(2 * D, D)
        self.self_attn = Attention(config, SLIDING)
        self.mlp = DenseMLP(config)
        for weight in (each for each in self.parameters() if each.ndim == 2):
            nn.init.normal_(weight, std=config.initializer_range)

    def forward(
        self, embedded: Tensor, hidden: Tensor, rotary: Any, segments: Segments, dtype: torch.dtype
    ) -> Tensor:
        """Return the hidden states for the shared LM head, [N, D].

        `hidden` has the trunk's hidden states before its final norm, and `embedded` the embeddings
        of later tokens: 1 later for the first head, 2 and 3 for the others.
        """
        both = torch.cat([self.enorm(embedded), self.hnorm(hidden)], dim=-1)
        x = self.eh_proj(both.to(dtype)).float()
        x = x + self.self_attn(self.input_layernorm(x).to(dtype), rotary, segments)
        x = x + self.mlp(self.pre_mlp_layernorm(x).to(dtype))
        return self.final_layernorm(x).to(dtype)


def load(work: Path, model: Trunk) -> nn.ModuleList:
    """Return the trained MTP heads of `work`."""
    heads = new_heads(model.config)
    heads.load_state_dict(torch.load(work / "heads.pt", weights_only=True)["model"])
    return heads.eval()


def new_heads(config: Any) -> nn.ModuleList:
    """Return untrained MTP heads for a trunk's config."""
    torch.manual_seed(SEED)
    return nn.ModuleList(Head(config) for _ in range(NUM_MTP_HEADS))


def train(work: Path, shape: Shape, budget: schedule.Budget) -> None:
    """Train the heads into `heads.pt`, with the log `heads.jsonl`; continue if they exist."""
    model = trunk.load(work, shape, compute_dtype()).requires_grad_(False)
    heads = new_heads(model.config)
    run = schedule.TrainingRun(work / "heads", heads, budget)
    batches = Batches(work, shape, SEED)
    gradients = PartGradients(heads)
    for step in run.steps():
        agreements: list[list[float]] = []
        loss_of = partial(distance, model=model, agreements=agreements)
        loss = gradients.add(loss_of, batches.of_step(step, PARTS))
        if (step + 1) % EVERY == 0 or step + 1 == run.length:
            means = np.mean(agreements, axis=0)
            figures = {f"agreement_{index + 1}": each for index, each in enumerate(means)}
            run.log(step, loss=loss, **figures)


def distance(
    heads: nn.ModuleList, batch: Batch, *, model: Trunk, agreements: list[list[float]]
) -> Tensor:
    """Return the heads' divergence from the trunk; note how often the best token agrees."""
    losses, agreed = [], []
    for draft, target in draft_logits(heads, model, batch):
        log_draft, log_target = (x.float().log_softmax(-1) for x in (draft, target))
        losses.append(
            functional.kl_div(log_draft, log_target, log_target=True, reduction="batchmean")
        )
        agreed.append((draft.argmax(-1) == target.argmax(-1)).float().mean().item())
    agreements.append(agreed)
    return torch.stack(losses).sum()


def draft_logits(
    heads: nn.ModuleList, model: Trunk, batch: Batch
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, for each head, its logits and the trunk's logits of the same tokens, [n, vocab].

    Head k reads the trunk's hidden states at a position and the token k + 1 positions later; it
    predicts the token after that one, where its segment has one that counts.
    """
    segments = batch.segments
    position = torch.arange(len(batch.token_N))
    with torch.no_grad():
        hidden = model(batch.token_N, segments)
        final = model.normed(hidden)
        rotary = rotary_tables(model.config, SLIDING, segments.position_N, model.dtype)
    for index, head in enumerate(heads):
        embedded = model.model.embed_tokens(batch.next_N.roll(-index))
        drafts = head(embedded, hidden, rotary, segments, model.dtype)
        last = (position + index + 1).clamp(max=len(position) - 1)  # where the trunk predicts it
        rows = (position + index + 1 < segments.end_N) & batch.counts_N[last]
        with torch.no_grad():
            target = model.lm_head(final[last[rows]])
        yield model.lm_head(drafts[rows]), target
