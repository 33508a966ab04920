"""Exceptions of this package.

ModelError
├── UnknownModelError       no such name in the catalog
├── WeightsError            a file of weights is missing, damaged, of no supported network, or fails its self-test
│   └── UntrainedWeightsError   plain colours change by 16 of 255 levels or more
├── UnsupportedScaleError   the model does not enlarge by this factor
├── DeviceError             the requested device is not available
├── OutOfMemoryError        a single patch does not fit
├── NonFiniteOutputError    NaN or infinity, even in float32
├── RecipeError             a training recipe is missing or invalid
├── ImagesError             folders, images or masks can't be used for training or evaluation
└── TrainingError           training can't continue: checkpoint of another recipe, non-finite loss
"""

from slidelift.errors import SlideliftError


class ModelError(SlideliftError):
    """Base class of all exceptions of this package."""


class UnknownModelError(ModelError):
    """Neither a name in the catalog nor a file of weights; the message lists the available models."""


class WeightsError(ModelError):
    """A file of weights can't be used; the message names the file and a remedy."""


class UntrainedWeightsError(WeightsError):
    """Weights change plain colours too much: they are untrained or expect another range of values."""


class UnsupportedScaleError(ModelError):
    """The model does not enlarge by this factor."""


class DeviceError(ModelError):
    """The requested device is unknown or not available."""


class OutOfMemoryError(ModelError):
    """A batch of one patch does not fit into the device's memory."""


class NonFiniteOutputError(ModelError):
    """The network's output has NaN or infinity, even in float32.

    Attributes
    ----------
    index
        Index of the patch in the batch.
    """

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


class RecipeError(ModelError):
    """A recipe is invalid; the message names the key and the allowed values."""


class ImagesError(ModelError):
    """Folders, images or masks can't be used; the message names the folder or file and a remedy."""


class TrainingError(ModelError):
    """Training can't start or continue; the last checkpoint holds the progress."""
