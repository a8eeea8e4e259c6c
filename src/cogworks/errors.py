"""The errors a user can meet. Each message says what was wrong and what to do."""


class CogworksError(ValueError):
    """Base of all errors that bad input can cause; the command line prints its message without a traceback."""


class WeightsError(CogworksError):
    """A weight file is missing, incomplete, damaged or does not fit the model."""


class RequestError(CogworksError):
    """A request asks for something the model cannot do."""


class RecipeError(CogworksError):
    """A training recipe has an unknown key or a value out of range."""


class VideoError(CogworksError):
    """A video or image file cannot be read or written."""


class ExtensionError(CogworksError):
    """An extension matches nothing, conflicts with another, or does not fit the model."""
