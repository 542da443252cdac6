"""The HTTP API: OpenAI's routes, and those of probes and dashboards."""

import asyncio
import re
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mimo_v2_flash import __version__

from .answers import ResponseBuilder
from .chat_page import chat_page
from .errors import APIError
from .json_bytes import json_bytes
from .metrics import CONTENT_TYPE
from .protocol import (
    ChatCompletionFields,
    CompletionFields,
    DetokenizeRequest,
    ResponseFields,
    TokenizeRequest,
    parse_request,
)
from .service import RunningAnswer, Service
from .tokenization import detokenize, tokenize

__all__ = ["create_app"]

MAY_HAVE_GRAMMAR = re.compile(rb'"(tools|response_format|structured_outputs|text)"')
SMALL_BODY = 4096  # bytes, which take less than a millisecond to parse
KINDS = {
    "chat/completions": ChatCompletionFields,
    "completions": CompletionFields,
    "responses": ResponseFields,
}
BODY_SECONDS = 60  # in which a client must have sent its body
CLIENT_GONE = 499  # nginx's status, for the log alone
KEEP_ALIVE_SECONDS = 15.0  # that a stream is silent at most
NOT_BUFFERED = {"cache-control": "no-cache", "x-accel-buffering": "no"}  # by proxies


def create_app(service: Service) -> FastAPI:
    """Return the application, to be served behind a `Gate`."""
    app = FastAPI(openapi_url=None)
    app.add_exception_handler(APIError, _error_response)
    app.add_exception_handler(HTTPException, _http_error_response)
    _add_generation_routes(app, service)
    _add_model_routes(app, service)
    _add_probes(app, service)
    _add_chat_page(app)
    return app


def _add_generation_routes(app: FastAPI, service: Service) -> None:
    async def answer(request: Request, kind: Any) -> Response:
        service.check_open()
        body = await _body(request)
        begun = await _parse(service, kind, body)
        running = service.start(begun, request.scope["state"]["log"])
        if begun.request.stream:
            return EventResponse(running)
        try:
            whole = await _unless_gone(request.receive, running.whole())
            return Response(json_bytes(whole), media_type="application/json")
        finally:
            running.close()

    for path, kind in KINDS.items():  # plain routes: FastAPI's take longer than the rest
        app.add_route(f"/v1/{path}", partial(answer, kind=kind), methods=["POST"])


async def _parse(service: Service, kind: Any, body: bytes) -> ResponseBuilder:
    """Return the answer to a request; in a thread, which waits for the engine's, if it is slow."""
    if len(body) <= SMALL_BODY and not MAY_HAVE_GRAMMAR.search(body):
        return service.parse(kind, body)
    return await asyncio.to_thread(service.parse, kind, body)


class EventResponse(StreamingResponse):
    """An answer as server-sent events, which ends when its client goes away."""

    def __init__(self, running: RunningAnswer) -> None:
        events, headers = running.sent_events(KEEP_ALIVE_SECONDS), NOT_BUFFERED
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._running = running

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the events, in a task of its own: what wakes it is not passed on by middleware."""
        try:
            await _unless_gone(receive, self.stream_response(send))
        except APIError as error:
            if error.status != CLIENT_GONE:
                raise
        finally:
            self._running.close()


def _add_model_routes(app: FastAPI, service: Service) -> None:
    served = service.served
    model = {
        "id": served.name,
        "object": "model",
        "created": 0,
        "owned_by": "mimo-v2-flash",
        "root": served.name,
        "parent": None,
        "max_model_len": served.max_length,
    }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        served.check_name(name)
        return model

    @app.post("/tokenize")
    async def tokenize_text(request: Request) -> dict[str, Any]:
        requested = parse_request(TokenizeRequest, await _body(request))
        return await asyncio.to_thread(tokenize, requested, served)

    @app.post("/detokenize")
    async def detokenize_tokens(request: Request) -> dict[str, Any]:
        return detokenize(parse_request(DetokenizeRequest, await _body(request)), served)


def _add_probes(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=200 if service.thread.is_alive else 503)

    @app.get("/ready")
    async def ready() -> Response:
        service.check_open()
        return Response()

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type=CONTENT_TYPE)

    @app.get("/version")
    async def package_version() -> dict[str, str]:
        return {"version": __version__}


def _add_chat_page(app: FastAPI) -> None:
    page = chat_page()

    @app.get("/")
    async def serve_chat_page() -> Response:
        return page


async def _body(request: Request) -> bytes:
    try:
        return await asyncio.wait_for(request.body(), BODY_SECONDS)
    except asyncio.TimeoutError as error:
        raise APIError(f"no body within {BODY_SECONDS} s", status=408) from error
    except ClientDisconnect as error:
        raise _client_has_gone() from error


async def _unless_gone(receive: Any, work: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of `work`, which is cancelled if the client goes away.

    `Request.is_disconnected` would have to be requested again and again.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _client_has_gone()
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
            with suppress(BaseException):
                await each


def _client_has_gone() -> APIError:
    return APIError("the client went away", status=CLIENT_GONE)


async def _gone(receive: Any) -> None:
    """Return when the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _error_response(_: Request, error: Any) -> Response:
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    return JSONResponse(error.body(), status_code=error.status, headers=headers)


async def _http_error_response(request: Request, error: Any) -> Response:
    """Return an error of routing, such as an unknown path, in the shape of all others."""
    body = APIError(
        f"{error.detail}: {request.method} {request.url.path}", status=error.status_code
    )
    return JSONResponse(body.body(), status_code=error.status_code, headers=error.headers)
