"""Count the statements of the package, folder by folder; docstrings are none.

python -m tools.statements [CHECKOUT ...]
"""

import ast
import sys
from collections import Counter
from pathlib import Path

__all__ = ["count_statements"]


def count_statements(package: Path) -> Counter[str]:
    """Return the number of statements in each folder and top-level file of a package."""
    counts = Counter[str]()
    for path in package.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        docstrings = sum(
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node) is not None
            for node in nodes
        )
        statements = sum(isinstance(node, ast.stmt) for node in nodes)
        counts[path.relative_to(package).parts[0]] += statements - docstrings
    return counts


def main() -> None:
    """Print the counts of this checkout, or of those that are named, side by side."""
    checkouts = [Path(name) for name in sys.argv[1:]] or [Path(__file__).parents[1]]
    counts = [count_statements(checkout / "mimo_v2_flash") for checkout in checkouts]
    for folder in sorted(set().union(*counts)):
        print(f"{folder:24}", *(f"{count[folder]:8,}" for count in counts))
    print(f"{'all':24}", *(f"{count.total():8,}" for count in counts))


if __name__ == "__main__":
    main()
