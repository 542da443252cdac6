"""Hypothesis draws the same examples on every run and every machine."""

from hypothesis import Phase, settings

settings.register_profile(
    "default", deadline=None, derandomize=True, max_examples=30, print_blob=True, database=None
)
# Deliberate faults are to be noticed, not to be shrunk to their smallest example.
settings.register_profile(
    "mutants", settings.get_profile("default"), phases=[Phase.explicit, Phase.generate]
)
settings.load_profile("default")
