"""A tiny checkpoint with a tokenizer: byte-level BPE with Qwen2's names, trained on a few lines.

Its vocabulary is small, so that most characters outside of ASCII take several tokens.
"""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.support.hub_checkpoint import RECIPE, HubCheckpoint, oracle_of, write_hub_checkpoint
from tests.support.tiny import tiny

END_OF_TEXT, MESSAGE, MESSAGE_END = SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXT_RECIPE = replace(RECIPE, vocabulary=300)
CONTEXT = 64  # positions
LINES = (
    "the thin thing is there, and that is the end\n",
    "こんにちは、世界。世の中\n",
    "naïve 🙂🙃\n",
) * 3
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

any_text = st.one_of(
    st.text(max_size=40), st.text("aé世🙂\ufffd\u200d 'the", max_size=40), st.sampled_from(LINES)
)


@cache
def small_tokenizer() -> Any:
    """Return the tokenizer as a PreTrainedTokenizerFast of transformers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TEXT_RECIPE.vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, additional_special_tokens=[*SPECIAL[1:]]
    )


def write_text_checkpoint(folder: Path, **generation_config: Any) -> HubCheckpoint:
    """Write the checkpoint, with a context of `CONTEXT` tokens and `generation_config` if any."""
    hub = write_hub_checkpoint(tiny(TEXT_RECIPE).oracle, folder)
    config = json.loads((folder / "config.json").read_text())
    write_json(
        folder / "config.json", config | {"max_position_embeddings": CONTEXT, "eos_token_id": None}
    )
    small_tokenizer().save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    if generation_config:
        write_json(folder / "generation_config.json", generation_config)
    return hub


def text_oracle(hub: HubCheckpoint) -> Any:
    """Return transformers' model of the checkpoint."""
    return oracle_of(tiny(TEXT_RECIPE).oracle, hub)


def write_json(file: Path, content: Any) -> None:
    """Write `content` into `file` as JSON."""
    file.write_text(json.dumps(content), encoding="utf-8")
