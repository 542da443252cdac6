"""Train a checkpoint, stage by stage; stages with results in the work folder are skipped.

apt-get download python3.11-doc && dpkg-deb -x python3.11-doc_*.deb text
python -m tools.train --shape small --text text --work work --output examples/mimo-small
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from mimo_v2_flash.atomic_file import atomic_write
from mimo_v2_flash.cpu.thread_count import resolve_thread_count
from mimo_v2_flash.text.tokenizer import load_tokenizer
from tools.corpus.build import build

from . import heads, rendering, tokens, trunk
from .memory import keep_freed_memory, keep_prepared_products
from .publish import publish, write_tokenizer
from .schedule import Budget
from .shape import SHAPES, Shape

HEADS = 0.12  # share of the minutes that the MTP heads have
SPOKEN = 8000  # conversations that the tokenizer is trained on, four times
FIRST_HEADS = 1.0  # minutes of the heads of the first checkpoint


def main() -> None:
    """Read the command line and run the stages that have no result yet."""
    options = parse()
    torch.set_num_threads(resolve_thread_count(options.threads).number)  # tests' modules set 1
    torch.set_flush_denormal(True)  # subnormal numbers are slow; threads inherit it
    keep_freed_memory()
    keep_prepared_products()
    shape = SHAPES[options.shape]
    minutes = options.minutes or shape.minutes
    options.work.mkdir(parents=True, exist_ok=True)
    tokenize(options.text, options.work, shape)
    budget = Budget(trunk.WARM_UP, options.steps, minutes * (1 - HEADS))
    if options.first_at:
        trunk.train(options.work, shape, budget, 60 * options.first_at)
        publish_first(options.work, shape, options.output)
    trunk.train(options.work, shape, budget)
    heads.train(options.work, shape, Budget(heads.WARM_UP, options.head_steps, minutes * HEADS))
    publish(options.work, shape, options.output)


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, required=True, help="What is trained.")
    parser.add_argument("--text", type=Path, required=True, help="Folder of *.rst.txt.")
    parser.add_argument("--work", type=Path, required=True, help="Folder of the stages' results.")
    parser.add_argument("--output", type=Path, required=True, help="Folder of the checkpoint.")
    parser.add_argument("--minutes", type=float, help="Minutes of trunk and heads (the shape's).")
    parser.add_argument("--steps", type=int, help="Steps of the trunk, whatever they take.")
    parser.add_argument("--head-steps", type=int, help="Steps of the heads, whatever they take.")
    parser.add_argument(
        "--first-at",
        type=float,
        help="Minute of the trunk's training at which a first checkpoint is published.",
    )
    parser.add_argument("--threads", type=int, help="PyTorch's threads (default: all cores).")
    return parser.parse_args()


def tokenize(text: Path, work: Path, shape: Shape) -> None:
    """Write the text, the tokenizer and the token ids."""
    if (work / "held_out.npy").exists():
        return
    build(text, work, shape.conversations)
    documents = {name: read_documents(work / f"{name}.txt") for name in ("train", "held_out")}
    chats = work / "conversations.jsonl"
    spoken = chats.read_text(encoding="utf-8").splitlines()[:SPOKEN] if chats.exists() else []
    tokenizer = tokens.train([*documents["train"], *map(as_text, 4 * spoken)], shape.vocabulary)
    tokenizer.save(str(work / "tokenizer.json"))
    write_tokenizer(work / "tokenizer.json", shape, work / "tokenizer")
    if shape.conversations:
        chat_tokenizer = load_tokenizer(work / "tokenizer")
        print(rendering.write(chats, chat_tokenizer, shape.length, work / "conversations.npz"))
    for name, texts in documents.items():
        ids = tokens.encode(Tokenizer.from_file(str(work / "tokenizer.json")), texts)
        with atomic_write(work / f"{name}.npy") as partial, partial.open("wb") as file:
            np.save(file, ids)


def as_text(line: str) -> str:
    """Return a conversation's messages and tools as the tokenizer learns them."""
    chat = json.loads(line)
    calls = [call["function"] for each in chat["messages"] for call in each.get("tool_calls", [])]
    texts = [each["content"] for each in chat["messages"]]
    texts += [text for call in calls for text in (call["name"], call["arguments"])]
    return "\n".join([*texts, *(str(tool["function"]) for tool in chat["tools"])])


def read_documents(file: Path) -> list[str]:
    """Return the documents of a file."""
    return file.read_text(encoding="utf-8").split(tokens.END_OF_DOCUMENT)


def publish_first(work: Path, shape: Shape, output: Path) -> None:
    """Publish the trunk as it is, with heads of a minute, from a folder of its own."""
    first = work / "first"
    if first.exists():
        return
    first.mkdir()
    for file in work.iterdir():
        if file.is_file():
            shutil.copy(file, first)
    heads.train(first, shape, Budget(heads.WARM_UP, minutes=FIRST_HEADS))
    publish(first, shape, output)


if __name__ == "__main__":
    main()
