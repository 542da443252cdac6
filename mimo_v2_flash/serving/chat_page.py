"""The chat page: one file of HTML, and the headers that let a browser run nothing else."""

import base64
import hashlib
import re
from importlib.resources import files

from fastapi.responses import HTMLResponse

__all__ = ["chat_page"]

INLINE = re.compile(r"<(script|style)[^>]*>(.*?)</\1>", re.DOTALL)


def chat_page() -> HTMLResponse:
    """Return the chat page, which asks this server alone.

    Its Content-Security-Policy names its script and its style by their hashes. A script that a text
    of the model smuggled in would not run, and with Trusted Types no text can become HTML at all.
    """
    page = files(__package__).joinpath("chat_page.html").read_text("utf-8")
    hashes = {kind: _hash(text) for kind, text in INLINE.findall(page)}
    policy = {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",  # the icon, which is empty
        "script-src": hashes["script"],
        "style-src": hashes["style"],
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
    }
    headers = {
        "content-security-policy": "; ".join(map(" ".join, policy.items())),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
    }
    return HTMLResponse(page, headers=headers)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
