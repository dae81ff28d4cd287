"""What goes wrong when a model is compressed, beyond `engine.errors`."""


class UnfitError(ValueError):
    """The settings of a recipe do not fit this model or sample. The message is for the user."""
