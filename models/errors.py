"""Every failure of a model, one tree.

    ModelError
    ├── UnknownModelError       no such name in the catalog
    ├── WeightsError            a file of weights is absent, unreadable, not a known network, or fails its self-test
    │   └── UntrainedWeightsError   they load, but change plain colours by 16 of 255 levels or more
    ├── UnsupportedScaleError   this model does not enlarge by that factor
    ├── DeviceError             the device asked for is not there
    ├── OutOfMemoryError        not even one patch fits
    ├── NonFiniteOutputError    NaN or infinity, in float32 too
    ├── RecipeError             a training recipe is absent, or asks for what there is not
    ├── ImagesError             folders, images or masks can't be used to train or to measure on
    └── TrainingError           training can't go on: a checkpoint of another recipe, a loss that is no number

A caller that can do something about one catches it by name; the rest is a ModelError.
"""

from slidelift.errors import SlideliftError


class ModelError(SlideliftError):
    """A model can't be had, or can't do what it was asked to."""


class UnknownModelError(ModelError):
    """Neither a name of the catalog nor a file of weights; the message names what is on offer."""


class WeightsError(ModelError):
    """A file of weights can't be used; the message names the file and what to try."""


class UntrainedWeightsError(WeightsError):
    """Weights that fit their network and change plain colours too much: untrained, or for another range of values."""


class UnsupportedScaleError(ModelError):
    """The model exists, but not at this scale."""


class DeviceError(ModelError):
    """The device asked for is unknown or absent."""


class OutOfMemoryError(ModelError):
    """The device's memory does not hold even a batch of one patch."""


class NonFiniteOutputError(ModelError):
    """The network answered NaN or infinity, in float32 as well.

    Attributes
    ----------
    index
        Which patch of the batch, counted from 0.
    """

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


class RecipeError(ModelError):
    """A recipe can't be followed; the message names the key and what is on offer."""


class ImagesError(ModelError):
    """Folders, images or masks can't be used; the message names the folder or file and what to try."""


class TrainingError(ModelError):
    """Training can't start or go on; what was reached is in the last checkpoint."""
