"""The chat page without a browser: its headers, and that it needs nothing but this server."""

import base64
import hashlib
import re

import httpx
import pytest

from tests.support.engine_model import HistoryModel
from tests.support.served import serving


@pytest.fixture(scope="module")
def page():
    """Return the page as a server sends it that wants a key for all else."""
    with serving(HistoryModel(4096, 256), api_keys=["right"]) as server:
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
        return httpx.get(server.url)


def policy_of(page):
    directives = page.headers["content-security-policy"].split("; ")
    return dict(directive.split(" ", 1) for directive in directives)


def test_it_needs_no_key(page):
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text.startswith("<!doctype html>")


def test_its_headers_are_strict(page):
    policy = policy_of(page)
    assert policy.pop("script-src").startswith("'sha256-")
    assert policy.pop("style-src").startswith("'sha256-")
    assert policy == {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
    }
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("kind", ["script", "style"])
def test_its_own_script_and_style_are_the_only_ones(page, kind):
    assert page.text.count(f"<{kind}") == 1
    text = page.text.partition(f"<{kind}")[2].partition(">")[2].partition(f"</{kind}>")[0]
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    assert policy_of(page)[f"{kind}-src"] == f"'sha256-{digest}'"


def test_it_names_no_other_host(page):
    assert "//" not in re.sub(r"(?m)^\s*//.*$|\s// .*$", "", page.text)  # but for comments
    assert re.findall(r"(?:href|src|action)=\"([^\"]*)\"", page.text) == ["data:,"]


def test_it_has_no_handlers_in_html_and_makes_no_html_of_text(page):
    assert not re.search(r"<[^>]*\s(on\w+|style)=", page.text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval", page.text)
