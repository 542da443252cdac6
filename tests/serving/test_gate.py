"""The gate: keys, hosts, sizes and ids, and a line of log for every request."""

import asyncio
import io
import json

import hypothesis
import pytest
from hypothesis import strategies as st

from mimo_v2_flash.serving.gate import Gate


async def app(scope, receive, send):
    """Answer with the size of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % size})


def ask(path="/v1/models", headers=(), bodies=(b"",), **options):
    """Return status, headers and body of a request through the gate, and its line of log."""
    log, sent = io.StringIO(), []
    pending = [
        {"type": "http.request", "body": body, "more_body": index < len(bodies) - 1}
        for index, body in enumerate(bodies)
    ]

    async def receive():
        return pending.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers)}
    asyncio.run(Gate(app, log=log, **options)(scope, receive, send))
    (line,) = log.getvalue().splitlines()
    start, body = sent
    return start["status"], dict(start["headers"]), body["body"], json.loads(line)


def bearer(key):
    return [(b"authorization", b"Bearer " + key)]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 401),
        (bearer(b"wrong"), 401),
        (bearer(b""), 401),
        ([(b"authorization", b"Basic right")], 401),
        (bearer(b"right"), 200),
        (bearer(b"other"), 200),
    ],
)
def test_a_key_is_needed_where_there_are_keys(headers, status):
    assert ask(headers=headers, api_keys=["right", "other"])[0] == status


@pytest.mark.parametrize("path", ["/", "/health", "/ready"])
def test_probes_need_no_key(path):
    assert ask(path, api_keys=["right"])[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"localhost:8000", 200),
        (b"LOCALHOST", 200),
        (b"[::1]:8000", 200),
        (b"evil.example", 403),
        (b"localhost.evil.example:8000", 403),
        (b"", 403),
    ],
)
def test_a_foreign_host_is_refused(host, status):
    assert ask(headers=[(b"host", host)], hosts=["localhost", "::1"])[0] == status


def test_a_body_that_says_it_is_too_large_is_not_read():
    status, _, body, _ = ask(headers=[(b"content-length", b"11")], max_body_bytes=10)
    assert status == 413
    assert json.loads(body)["error"]["message"] == "the body is larger than 10 bytes"


def test_a_body_that_grows_too_large_is_an_error_of_the_application():
    with pytest.raises(Exception, match="larger than 10 bytes"):
        ask(bodies=(b"12345", b"678901"), max_body_bytes=10)
    assert ask(bodies=(b"12345", b"67890"), max_body_bytes=10)[2] == b"10"


def test_a_clients_id_is_kept_if_it_is_plain():
    _, headers, _, line = ask(headers=[(b"x-request-id", b"abc-1")])
    assert headers[b"x-request-id"] == b"abc-1"
    assert (line["id"], line["status"], line["path"]) == ("abc-1", 200, "/v1/models")


@hypothesis.given(
    st.lists(
        st.tuples(
            st.sampled_from([b"host", b"authorization", b"content-length", b"x-request-id"]),
            st.binary(max_size=300),
        ),
        max_size=5,
    )
)
def test_any_headers_get_an_answer_and_a_line(headers):
    status, answer, _, line = ask(headers=headers, api_keys=["k"], hosts=["localhost"])
    assert status in {200, 401, 403, 413}
    assert line["status"] == status
    assert answer[b"x-request-id"].decode() == line["id"]
    assert line["id"].isprintable()
