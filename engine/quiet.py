"""Keep libraries from talking: what is ours to say is said by docmill's own logs and errors.

vLLM, torch and their friends print progress bars, warnings about each other and advice that a batch job's reader can
do nothing about, straight to the terminal. What the user set in the environment stays, so `VLLM_LOGGING_LEVEL=DEBUG`
brings vLLM's own log back.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # nothing about a user's job is sent anywhere
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # read when torch is imported, so this comes before
    "TOKENIZERS_PARALLELISM": "true",
}


def quiet_libraries() -> None:
    """Call before the first import of torch, transformers or vLLM. A second call does nothing more."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)  # "Triton not available", on every CPU


@contextmanager
def quiet_imports() -> Iterator[None]:
    """While vLLM loads: it touches every deprecated name of torch's modules, each with a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
