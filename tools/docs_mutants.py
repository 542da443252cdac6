"""Mutants of packaging, and of the documentation that is made of the code."""

from tools.kernel_mutants import Mutant

__all__ = ["DOCS_MUTANTS"]

DOCS_MUTANTS = (
    Mutant(
        "a wheel has what the examples were trained from",
        "pyproject.toml",
        'exclude = ["examples/*.py", "examples/*/training"]',
        'exclude = ["examples/*.py"]',
        ("tests/tools/test_release_check.py",),
    ),
    Mutant(
        "of two examples of a name the checkout's is taken",
        "mimo_v2_flash/example_folders.py",
        "for place in reversed(PLACES)",
        "for place in PLACES",
        ("tests/test_example_folders.py",),
    ),
    Mutant(
        "constants are described nowhere",
        "tools/reference/api.py",
        '            yield _directive("data", name.id, module, text)',
        "            pass",
        ("tests/tools/test_reference.py",),
    ),
    Mutant(
        "a dead link passes",
        "docs/conf.py",
        'extensions = ["myst_parser"]',
        'extensions = ["myst_parser"]\nsuppress_warnings = ["myst.xref_missing"]',
        ("tests/test_site.py",),
    ),
    Mutant(
        "a parameter that nobody describes",
        "mimo_v2_flash/kernels/rmsnorm.py",
        "    weight_D : array\n        Weight of each channel.\n",
        "",
        ("tests/test_docstrings.py",),
    ),
    Mutant(
        "a demo is well whatever the checks say",
        "mimo_v2_flash/cli/demo.py",
        "checks.status)",
        "0)",
        ("tests/cli/test_demo.py",),
    ),
)
