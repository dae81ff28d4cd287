"""Errors of compression, beside the engine's own `ModelError`."""

from __future__ import annotations


class UnfitError(ValueError):
    """The settings of a recipe do not fit this model or sample. The message is for the user."""
