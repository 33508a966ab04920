"""Conversion of exceptions to Problems."""

import errno

from slidelift.models import errors as models_errors
from slidelift.service.errors import Problem, ServiceError, problem
from slidelift.wsi import errors as wsi_errors

_CODES: tuple[tuple[type[Exception], str], ...] = (
    (wsi_errors.SlideUnreadableError, "slide.unreadable"),
    (wsi_errors.ForeignFileError, "slide.foreign-file"),
    (wsi_errors.UnsupportedPixelsError, "slide.unsupported-pixels"),
    (wsi_errors.PixelSizeMissingError, "slide.mpp-missing"),
    (wsi_errors.PixelSizeImplausibleError, "slide.mpp-implausible"),
    (wsi_errors.TileReadError, "slide.tile-unreadable"),
    (wsi_errors.TooCoarseError, "view.too-coarse"),
    (wsi_errors.NoSuchLevelError, "request.level"),
    (wsi_errors.RegionError, "request.region"),
    (wsi_errors.PlanError, "request.plan"),
    (wsi_errors.RoiError, "request.roi"),
    (wsi_errors.OutputFormatError, "request.format"),
    (wsi_errors.VerificationError, "result.verification"),
    (models_errors.UnknownModelError, "model.unknown"),
    (models_errors.WeightsError, "model.weights"),
    (models_errors.UnsupportedScaleError, "model.scale"),
    (models_errors.DeviceError, "device.missing"),
    (models_errors.NonFiniteOutputError, "model.non-finite"),
    (models_errors.OutOfMemoryError, "device.out-of-memory"),
    (models_errors.RecipeError, "training.recipe"),
    (models_errors.ImagesError, "images.unusable"),
    (models_errors.TrainingError, "training.failed"),
)


def describe(error: Exception) -> Problem:
    """Return the Problem of an exception; an unexpected exception is an internal error."""
    if isinstance(error, ServiceError):
        return error.problem
    for kind, code in _CODES:
        if isinstance(error, kind):
            return problem(code, str(error))
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return problem("storage.full", "the disk is full; make space, then try again")
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        cause = "a file grew larger than its file system takes (FAT32: 4 GiB) or than `ulimit -f` allows"
        return problem("storage.unusable", f"{cause}; write to another disk, or raise the limit")
    if isinstance(error, OSError) and error.filename is not None:
        return problem("storage.unusable", f"{error.filename}: {error.strerror}")
    if isinstance(error, MemoryError):
        return problem("device.out-of-memory", f"the process needs more memory than its limit allows ({error})")
    return problem("internal", f"{type(error).__name__}: {error}")
