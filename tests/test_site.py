"""The site: its rules find what is wrong on a page; every page is listed, and no link is dead."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<!!)\[[^]]*\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")
OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *("examples/mimo-tiny/README.md",))
SPHINX = (
    *("-m", "sphinx", "--builder", "dummy", "--fail-on-warning", "--keep-going", "--quiet"),
    "--conf-dir",
)
INDEX = "# Site\n\n:::{toctree}\npage\n:::\n"
PAGE = "# Page\n\n## A part\n\n[here](#a-part), [index](index.md), [code](../code.py)\n"


def build(folder: Path, **pages: str) -> subprocess.CompletedProcess[str]:
    """Build a site of pages by the rules of this one, without writing it."""
    source = folder / "docs"
    source.mkdir()
    (folder / "code.py").write_text("")
    for name, text in ({"index": INDEX, "page": PAGE} | pages).items():
        (source / f"{name}.md").write_text(text)
    return subprocess.run(
        [sys.executable, *SPHINX, str(DOCS), str(source), str(folder / "build")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_site_without_a_fault_is_built(tmp_path):
    done = build(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        ({"page": "# Page\n\n[there](absent.md)\n"}, "absent"),
        ({"page": "# Page\n\n[there](../absent.py)\n"}, "absent.py"),
        ({"page": "# Page\n\n[there](index.md#absent)\n"}, "absent"),
        ({"page": "# Page\n\n[there](#absent)\n"}, "absent"),
        ({"page": "# Page\n\n{doc}`absent`\n"}, "absent"),
        ({"page": "# Page\n\n![figure](absent.svg)\n"}, "absent.svg"),
        ({"index": "# Site\n"}, "isn't included in any toctree"),
        ({"index": INDEX.replace("page", "page\nabsent")}, "absent"),
    ],
)
def test_a_fault_of_a_page_fails_and_is_named(tmp_path, pages, message):
    done = build(tmp_path, **pages)
    assert done.returncode == 1
    assert message in done.stderr


def listed(page: str) -> list[str]:
    """Return what the tables of contents of a page list."""
    blocks = re.findall(r"^:::\{toctree\}\n(.*?)^:::$", (DOCS / page).read_text(), re.M | re.S)
    lines = (line for block in blocks for line in block.splitlines())
    return [line for line in lines if line and not line.startswith(":")]


def test_every_page_is_listed_once():
    entries = [line for line in listed("index.md") if not line.startswith("generated/")]
    patterns = [*entries, *listed("decisions.md"), "index"]
    pages = sorted(str(path.relative_to(DOCS)) for pattern in patterns for path in
                   DOCS.glob(f"{pattern}.md"))  # fmt: skip
    written = [p for p in DOCS.rglob("*.md") if "generated" not in p.parts]
    assert pages == sorted(str(path.relative_to(DOCS)) for path in written)


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
    return "#" + re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")


@pytest.mark.parametrize("page", OUTSIDE)
def test_links_of_pages_outside_of_the_site_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.M | re.S)
    dead = []
    for target, anchor in LINK.findall(text):
        path = (ROOT / page).parent / target if target else ROOT / page
        headings = re.findall(r"^#+ (.+)$", path.read_text(), re.M) if anchor else []
        if not path.exists() or (anchor and anchor not in map(slug, headings)):
            dead.append(target + anchor)
    assert dead == []
