"""The engine's thread: it runs steps while there is work, and hands events to who asked."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from threading import Condition, Thread
from typing import Any

from mimo_v2_flash.engine import Engine, SamplingParams
from mimo_v2_flash.engine.outputs import Event
from mimo_v2_flash.engine.stats import EngineStats

__all__ = ["EngineThread"]

Listener = Callable[[list[Event]], None]


class EngineThread:
    """A thread that runs an engine's steps while it has work.

    All methods may be called from any thread.

    Parameters
    ----------
    engine
        The engine, which nobody else steps.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self._changed = engine, Condition()
        self._listeners: dict[int, tuple[Listener, int]] = {}  # and answers that go on
        self._is_closing = False
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> "EngineThread":
        """Return the thread, which is closed after the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the thread and the engine."""
        self.close()

    @property
    def is_alive(self) -> bool:
        """Whether requests are answered: False after `close` and after a failure of the model."""
        return self._thread.is_alive() and not self._is_closing

    @property
    def stats(self) -> EngineStats:
        """The engine's statistics."""
        return self._engine.stats

    def submit(
        self,
        prompt_tokens: Sequence[int],
        params: SamplingParams,
        listener: Listener,
        **options: Any,
    ) -> int:
        """Let a prompt be answered; return its id.

        Parameters
        ----------
        prompt_tokens, params
            As for `Engine.submit`.
        listener
            Called on the engine's thread with the request's events of a step; it must be quick.
        **options
            Other options of `Engine.submit`.

        Raises
        ------
        ValueError, RuntimeError
            As `Engine.submit`.
        """
        with self._changed:
            id_ = self._engine.submit(prompt_tokens, params, **options)
            self._listeners[id_] = listener, params.n
            self._changed.notify()
        return id_

    def cancel(self, id_: int) -> None:
        """End a request; its listener still gets the events of its end."""
        with self._changed:
            self._engine.cancel(id_)
            self._changed.notify()

    def close(self) -> None:
        """Cancel all requests, tell their listeners, and end the thread."""
        with self._changed:
            self._is_closing = True
            for id_ in self._listeners:
                self._engine.cancel(id_)
            self._changed.notify()
        self._thread.join()
        self._engine.close()

    def _run(self) -> None:
        while self._engine.failure is None and self._wait():
            self._deliver(self._engine.step())

    def _wait(self) -> bool:
        """Wait until there is work, and return whether there is: not after the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._engine.has_work or self._is_closing)
            return self._engine.has_work

    def _deliver(self, events: list[Event]) -> None:
        """Call the listeners of a step's events, and forget those of finished requests.

        The last submitted come first: their clients may wait for a first token.
        """
        by_request = defaultdict[int, list[Event]](list)
        for event in events:
            by_request[event.id].append(event)
        for id_, of_request in sorted(by_request.items(), reverse=True):
            with self._changed:
                listener, remaining = self._listeners[id_]
                remaining -= sum(event.finish_reason is not None for event in of_request)
                self._listeners[id_] = listener, remaining
                if not remaining:
                    del self._listeners[id_]
            listener(of_request)
