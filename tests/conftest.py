"""Hypothesis profiles: the same examples on every run and every machine."""

from hypothesis import Phase, settings

settings.register_profile(
    "default", deadline=None, derandomize=True, max_examples=30, print_blob=True, database=None
)
# A mutant only has to be noticed: its failing example is not shrunk.
settings.register_profile(
    "mutants", settings.get_profile("default"), phases=[Phase.explicit, Phase.generate]
)
settings.load_profile("default")
