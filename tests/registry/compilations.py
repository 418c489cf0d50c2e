"""Counting what the compiler is asked to do."""

import contextlib

import jax

_COMPILE = "/jax/core/compile/backend_compile_duration"
_open: list[list[str]] = []


def _listen(event: str, duration: float, **_) -> None:
    del duration
    if event == _COMPILE:
        for events in _open:
            events.append(event)


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextlib.contextmanager
def compilations():
    """A list that grows with each program that XLA compiles inside the block."""
    events: list[str] = []
    _open.append(events)
    try:
        yield events
    finally:
        _open.remove(events)
