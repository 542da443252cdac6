"""Ranks from Python: a model split over four threads gives the tokens of one rank.

python -m examples.ranks

Under torchrun the ranks are processes: leave `group` out, and `load_model` joins them.
"""

from mimo_v2_flash import example_folder, load_model
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig

PROMPTS = [[1, 45, 300], [1, 45, 7, 12]]
SPLIT = ParallelConfig(expert_parallel_size=4, tensor_parallel_size=2, data_parallel_size=2)


def generate_on(split: ParallelConfig) -> list[list[list[int]]]:
    """Return the new tokens of each prompt, from each rank."""
    group = ThreadGroup(split.world_size)

    def program(_: int) -> list[list[int]]:
        model = load_model(example_folder(), group=group, parallel=split)
        return list(model.generate(PROMPTS, max_new_tokens=8, temperature=0))

    return group.run(program)


def main() -> None:
    """Print the tokens of one rank, and of four."""
    model = load_model(example_folder())
    print("one rank: ", list(model.generate(PROMPTS, max_new_tokens=8, temperature=0)))
    for rank, tokens in enumerate(generate_on(SPLIT)):
        print(f"rank {rank} of {SPLIT.world_size}:", tokens)


if __name__ == "__main__":
    main()
