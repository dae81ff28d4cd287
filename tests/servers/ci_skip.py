"""For tests that need what a developer's machine may lack and CI never does."""

import os
from typing import NoReturn

import pytest


def ci_skip(reason: str) -> NoReturn:
    """Skips the test, or fails it where CI=true: there a skip would hide a missing install step."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"in CI this may not be missing: {reason}", pytrace=False)
    pytest.skip(reason)
