"""The trunk (main model): transformers' own, with experts balanced by the selection bias alone.

Source of the balance: DeepSeek-V3, section 2.1.2 (arXiv:2412.19437): after every step the bias of
an expert with more than its share of the tokens goes down by a constant, that of the others up; no
auxiliary loss.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import MiMoV2FlashForCausalLM

from . import attention, schedule
from .shape import configuration
from .windows import Windows, in_order

__all__ = ["load", "loads_of", "train"]

STEPS, WARM_UP, ROWS, SEED = 2200, 100, 2, 20260101
BALANCE_SPEED, BALANCED_UNTIL = 1e-3, 0.9  # per step; share of steps that update the bias
HELD_OUT, EVERY = 16, 100  # windows of the held-out loss; steps between log entries


def new_model() -> Any:
    """Return transformers' model of the tiny config, initialised at random with `SEED`."""
    torch.manual_seed(SEED)
    attention.register()
    model = MiMoV2FlashForCausalLM._from_config(
        configuration(), attn_implementation=attention.NAME, dtype=torch.float32
    )
    nn.init.normal_(
        model.model.embed_tokens.weight
    )  # embeddings outweigh the layers' outputs at first
    for router in routers(model):
        router.forward = torch.autocast("cpu", enabled=False)(router.forward)
    return model


def load(work: Path) -> Any:
    """Return the trained trunk of `work`."""
    model = new_model()
    model.load_state_dict(torch.load(work / "trunk.pt", weights_only=True)["model"])
    return model.eval()


def train(work: Path) -> None:
    """Train the trunk into `trunk.pt`, with the log `trunk.jsonl`; continue if they exist."""
    model = new_model()
    run = schedule.TrainingRun(work / "trunk", model, warm_up=WARM_UP, length=STEPS)
    windows, held_out = Windows(work / "train.npy", ROWS, SEED), in_order(work / "held_out.npy")
    losses: list[float] = []
    for step in run.steps():
        inputs, targets = windows.of_step(step)
        with loads_of(model) as loads, schedule.autocast():
            logits = model(inputs, use_cache=False).logits
        loss = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        loss.backward()
        if step < BALANCED_UNTIL * STEPS:
            balance(model, loads)
        losses.append(loss.item())
        if (step + 1) % EVERY == 0 or step + 1 == STEPS:
            busiest = max((each.max() / each.mean()).item() for each in loads)
            run.log(
                step,
                loss=sum(losses) / len(losses),
                held_out=held_out_loss(model, held_out),
                busiest=busiest,
            )
            losses.clear()


@torch.no_grad()
def held_out_loss(model: Any, held_out: tuple[Tensor, Tensor]) -> float:
    """Return the mean loss per token, in nats, over the first `HELD_OUT` windows."""
    total = torch.zeros(())
    for inputs, targets in zip(*(each[:HELD_OUT] for each in held_out), strict=True):
        logits = model(inputs[None], use_cache=False).logits[0]
        total += functional.cross_entropy(logits, targets)
    return total.item() / HELD_OUT


@contextmanager
def loads_of(model: Any) -> Iterator[list[Tensor]]:
    """Yield a list that collects the number of tokens of each expert, [E], router by router."""
    loads: list[Tensor] = []

    def count(router: nn.Module, _: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        loads.append(torch.bincount(output[2].flatten(), minlength=router.num_experts).float())

    hooks = [router.register_forward_hook(count) for router in routers(model)]
    yield loads
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def balance(model: Any, loads: list[Tensor]) -> None:
    """Lower the selection bias of experts above the mean load, raise that of the others."""
    for router, load in zip(routers(model), loads, strict=True):
        router.e_score_correction_bias += BALANCE_SPEED * torch.sign(load.mean() - load)


def routers(model: Any) -> list[nn.Module]:
    """Return the routers of `model`, in the order of its layers."""
    return [layer.mlp.gate for layer in model.model.layers if hasattr(layer.mlp, "gate")]
