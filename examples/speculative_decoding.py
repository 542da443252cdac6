"""Speculative decoding from Python: MTP heads draft, a step verifies, and the text is the same.

python -m examples.speculative_decoding
"""

from mimo_v2_flash import example_folder, load_model
from mimo_v2_flash.text.completion import Completion, complete
from mimo_v2_flash.text.tokenizer import load_tokenizer

PROMPT = "The list type"


def write(draft_tokens: tuple[int, ...], max_new_tokens: int = 60) -> list[Completion]:
    """Return the greedy text for each number of drafts."""
    model, tokenizer = load_model(example_folder()), load_tokenizer(example_folder())
    return [
        complete(
            model,
            tokenizer,
            PROMPT,
            max_new_tokens=max_new_tokens,
            temperature=0,
            draft_tokens=drafts,
        )
        for drafts in draft_tokens
    ]


def main() -> None:
    """Print the tokens of a step without drafts and with three, and the text."""
    plain, drafted = write((0, 3))
    for drafts, completion in ((0, plain), (3, drafted)):
        print(f"{drafts} drafts: {completion.stats.tokens_per_step:.2f} tokens per step")
    print(f"{PROMPT}{drafted.text}")


if __name__ == "__main__":
    main()
