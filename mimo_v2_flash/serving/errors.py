"""Errors of the API, in OpenAI's shape."""

from typing import Any

__all__ = ["APIError"]

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}


class APIError(Exception):
    """An error that a client is told, with a status of HTTP.

    Parameters
    ----------
    message
        One line that names the field and what was expected.
    status
        Status of HTTP.
    param
        The field that is wrong, if it is one.
    code
        What programs compare, such as "context_length_exceeded".
    retry_after
        Seconds after which the client may try again.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after

    def body(self) -> dict[str, Any]:
        """Return the JSON object that tells the error."""
        type_ = TYPES.get(self.status, "server_error")
        error = {"message": str(self), "type": type_, "param": self.param, "code": self.code}
        return {"error": error}
