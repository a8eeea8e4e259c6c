"""The errors a user can meet. Each message says what was wrong and what to do."""


class CogworksError(ValueError):
    """Base of all errors that bad input can cause; the command line prints its message without a traceback."""


class WeightsError(CogworksError):
    """A weight file is missing, incomplete, damaged or does not fit the model."""


class RequestError(CogworksError):
    """A request asks for something the model cannot do."""


class RecipeError(CogworksError):
    """A training recipe has an unknown key or a value out of range."""


class DataError(CogworksError):
    """Training data hold nothing that can be used, or not what the recipe needs."""


class VideoError(CogworksError):
    """A video or image file cannot be read or written."""


class ExtensionError(CogworksError):
    """An extension matches nothing, conflicts with another, or does not fit the model."""


class RunError(CogworksError):
    """The run itself found a fault; nothing that was asked for is wrong in itself."""


class JobsFailedError(RunError):
    """Some jobs of a list failed; the others are done."""


class ReplayError(RunError):
    """A video that was made again is not the same."""


class NumericsError(RunError):
    """A network gave numbers that are not finite."""


class MemoryShortageError(RunError):
    """Memory ran out, and there was nothing left to save."""
