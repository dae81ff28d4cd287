"""Keeps Python's garbage collector out of the way where it takes a tenth of the time and finds nothing."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """While a million objects are made that all stay (imports of torch, transformers, vLLM; a model).

    The collector would look through all that there are again and again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def rare_garbage_collection() -> Iterator[None]:
    """While a hundred thousand objects come and go that hold no cycles: what few there are can wait."""
    thresholds = gc.get_threshold()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
