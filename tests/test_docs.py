"""The glossary names files and identifiers that exist, and the terms that newcomers search."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
ROWS = [
    (term.strip(), meaning.strip(), place)
    for term, meaning, place in re.findall(r"^\| (.+?) \| (.+) \| (`.+) \|$", GLOSSARY, re.M)
]
# What a reader who knows vLLM and Megatron searches for.
SEARCHED = (
    *("expert capacity", "all_reduce", "KV length", "MTP", "RoPE", "shard", "meta tensors"),
    *("HLO lint", "deadlock detection", "dispatcher"),
)


def path_of(place: str) -> Path:
    inside_package = not place.startswith(("tests/", "tools/", "docs/"))
    return (ROOT / "mimo_v2_flash" if inside_package else ROOT) / place


@pytest.mark.parametrize(("term", "meaning", "place"), ROWS, ids=[row[0] for row in ROWS])
def test_a_term_is_where_the_glossary_says(term, meaning, place):
    file, *identifiers = re.findall(r"`([^`]+)`", place)
    source = path_of(file).read_text()
    assert identifiers
    for identifier in identifiers:
        assert re.search(rf"\b{identifier}\b", source), f"{file} has no {identifier}"


def test_a_term_stands_once():
    terms = [term for term, _, _ in ROWS]
    assert len(terms) == len(set(terms)) > 70


@pytest.mark.parametrize("word", SEARCHED)
def test_what_a_newcomer_searches_is_found(word):
    assert word.lower() in GLOSSARY.lower()
    package = (ROOT / "mimo_v2_flash").rglob("*.py")
    assert any(word.lower() in path.read_text().lower() for path in package)
