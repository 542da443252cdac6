"""Writer of the published checkpoint: FP8 weights in the hub's layout, tokenizer, training logs.

The weights are written by the checkpoint writer of the tests, which is independent of the reader.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from torch import nn
from transformers import MiMoV2FlashForCausalLM, PreTrainedTokenizerFast

from tests.support.hub_checkpoint import oracle_of, write_hub_checkpoint

from . import curves, heads, text_quality, trunk
from .model import Trunk
from .shape import Shape
from .tokens import END_OF_DOCUMENT, END_OF_TEXT, SPECIAL

__all__ = ["publish"]

TEMPLATES = Path(__file__).parent / "templates"
GENERATION = {
    "do_sample": True,
    "temperature": 0.6,
    "top_p": 0.9,
    "eos_token_id": [END_OF_TEXT, SPECIAL.index("<|im_end|>")],
    "pad_token_id": END_OF_TEXT,
}


def publish(work: Path, shape: Shape, folder: Path) -> None:
    """Write the trained model of `work` as a checkpoint into `folder`, with its quality figures."""
    model = trunk.load(work, shape)
    mtp_heads = heads.load(work, model)
    oracle = transformers_model(model)
    hub = write_hub_checkpoint(oracle, folder, mtp_weights=hub_names(mtp_heads))
    write_tokenizer(work / "tokenizer.json", shape, folder)
    text = json.dumps(GENERATION, indent=2) + "\n"
    (folder / "generation_config.json").write_text(text, encoding="utf-8")

    training = folder / "training"
    training.mkdir(exist_ok=True)
    held_out = (work / "held_out.txt").read_text(encoding="utf-8").replace(END_OF_DOCUMENT, "\n")
    (training / "held_out.txt").write_text(held_out, encoding="utf-8")
    for log in ("trunk.jsonl", "heads.jsonl"):
        shutil.copy(work / log, training)
    curves.draw(work, training / "curves.svg")
    published = trunk.new_model(shape)
    published.load_state_dict(oracle_of(oracle, hub).state_dict())
    figures = text_quality.measure(model, published, mtp_heads, shape, folder)
    text_quality.write(figures, training / "text_quality.json")


def transformers_model(model: Trunk) -> Any:
    """Return transformers' model with the weights of `model`."""
    oracle = MiMoV2FlashForCausalLM._from_config(model.config, attn_implementation="eager")
    oracle.load_state_dict(model.state_dict())
    return oracle.eval()


def hub_names(mtp_heads: nn.ModuleList) -> dict[str, Any]:
    """Return the float32 weights of the MTP heads by the hub's names."""
    return {
        f"model.mtp.layers.{name.replace('sinks', 'attention_sink_bias')}": weight.numpy()
        for name, weight in mtp_heads.state_dict().items()
    }


def write_tokenizer(file: Path, shape: Shape, folder: Path) -> None:
    """Write the files that `transformers.AutoTokenizer` reads, with the chat template."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(file),
        eos_token=SPECIAL[END_OF_TEXT],
        pad_token=SPECIAL[END_OF_TEXT],
        additional_special_tokens=list(SPECIAL[1:3]),
        model_max_length=shape.length,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = (TEMPLATES / shape.template).read_text(encoding="utf-8")
    tokenizer.save_pretrained(folder)
