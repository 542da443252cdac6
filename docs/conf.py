"""Configuration of the documentation site, which `make docs` makes of this folder."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from mimo_v2_flash import __version__  # noqa: E402  the package of this checkout
from tools.reference import write_reference  # noqa: E402

project = "MiMo-V2-Flash in NumPy"
author = "The MiMo-V2-Flash NumPy developers"
version = release = __version__
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
highlight_language = "none"  # of blocks that name none: what programs print
maximum_signature_line_length = 90
add_module_names = False
smartquotes = False
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # types in signatures; pages are linked by Markdown
html_theme = "furo"
html_title = f"{project} {version}"
html_show_copyright = False
html_show_sphinx = False


def setup(app):
    """Write the pages that are made of the code, before Sphinx lists the pages."""
    app.connect("builder-inited", _write_reference)


def _write_reference(app):
    if Path(app.srcdir) == Path(app.confdir):
        write_reference(Path(app.srcdir, "generated"))
