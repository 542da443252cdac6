"""Reference pages of the documentation site, made of the code: nothing in them is written twice."""

import shutil
from collections.abc import Callable
from pathlib import Path

from .api import api_pages
from .commands import commands_page
from .config import config_page
from .errors import errors_page
from .metrics import metrics_page

__all__ = ["PAGES", "write_reference"]

PAGES: dict[str, Callable[[], str]] = {
    "commands": commands_page,
    "config": config_page,
    "errors": errors_page,
    "metrics": metrics_page,
}


def write_reference(folder: Path) -> None:
    """Write all pages to a folder, which has nothing else after it.

    Parameters
    ----------
    folder
        Folder; one that exists is removed first.
    """
    shutil.rmtree(folder, ignore_errors=True)
    pages = {name: page() for name, page in PAGES.items()}
    pages |= {f"api/{name}": text for name, text in api_pages().items()}
    for name, text in pages.items():
        path = folder / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
