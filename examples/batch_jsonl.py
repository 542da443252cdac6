"""A batch from Python: the prompts of a JSONL file, answered together, written as they end.

python -m examples.batch_jsonl PROMPTS.jsonl ANSWERS.jsonl

A line of the first is {"prompt": TEXT}; `mimo generate --prompt-file` knows more fields.
"""

import argparse
import json
from pathlib import Path

from mimo_v2_flash import Engine, SamplingParams, example_folder, load_model
from mimo_v2_flash.text.tokenizer import load_tokenizer, tokens

PARAMS = SamplingParams(max_tokens=16, temperature=0)


def answer_file(prompts: Path, answers: Path) -> int:
    """Write a line for each line, with its number, prompt and text; return how many there were."""
    model, tokenizer = load_model(example_folder()), load_tokenizer(example_folder())
    lines = {}
    with Engine(model, max_sequences=8, max_length=256) as engine, answers.open("w") as file:
        for number, line in enumerate(prompts.read_text("utf-8").strip().split("\n")):
            prompt = json.loads(line)["prompt"]
            request = engine.submit(tokens(tokenizer, prompt), PARAMS)
            lines[request] = {"number": number, "prompt": prompt}
        for request, output in engine.as_completed():
            text = tokenizer.decode(output.tokens, skip_special_tokens=True)
            file.write(json.dumps(lines[request] | {"text": text}) + "\n")
    return len(lines)


def main() -> None:
    """Read the command line, and answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("answers", type=Path)
    options = parser.parse_args()
    print(f"{answer_file(options.prompts, options.answers)} prompts answered")


if __name__ == "__main__":
    main()
