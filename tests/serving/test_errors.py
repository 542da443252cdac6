"""Errors of the API: OpenAI's shape."""

import pytest

from mimo_v2_flash.serving.errors import APIError


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (429, "rate_limit_error"), (599, "server_error")],
)
def test_an_error_has_openais_shape(status, kind):
    error = APIError("n is 0", status=status, param="n", code="bad")
    assert error.body() == {
        "error": {"message": "n is 0", "type": kind, "param": "n", "code": "bad"}
    }
