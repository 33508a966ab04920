"""Inference of networks: device, precision, batches, and recovery from errors.

A batch that does not fit into memory is halved, a batch with non-finite output is computed again in float32. If that
fails too, an exception is raised; patches are never replaced by anything else.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slidelift.models.errors import DeviceError, NonFiniteOutputError, OutOfMemoryError
from slidelift.models.networks.blocks import ImageNetwork
from slidelift.models.networks.spec import Geometry
from slidelift.models.zoo.weights import Weights

Pixels = NDArray[np.uint8] | NDArray[np.float32]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precisions of a network's body; skip connections and outputs are always float32."""
MAX_PRECISION_LOSS = 0.02
"""Loss of PSNR-Y against float32, in dB by the card's measurement, that "auto" accepts."""
_NOT_MEASURED: Mapping[str, float] = MappingProxyType({})
_CUDA_BATCH = 8
_OTHER_KERNEL_VALUES = 3 * 128**2
"""torch convolves single CPU patches of up to 20,480 values by another kernel, whose sums differ in the last bit; only
patches of up to this many values can shrink to that within a network."""
_NO_MEMORY = ("can't allocate memory", "not enough memory")


class NetworkUpscaler:
    """Network on a device; implements `models.upscaler.PatchUpscaler`. Not thread-safe.

    On the CPU patches are computed one by one: that is fastest (activations stay in the cache) and makes the output
    independent of batching. Memory: the weights and the activations of `batch` patches.

    Parameters
    ----------
    network
        Takes and returns RGB in [0, 1]; see `models.networks.spec.NetworkSpec.build`.
    device, precision
        See `models.upscaler.load_upscaler`.
    precision_loss
        Precision -> measured loss of PSNR-Y against float32 in dB.
    batch
        Patches per batch; None for the device's default.

    Raises
    ------
    DeviceError
        If the device is unknown or not available.
    """

    def __init__(
        self,
        network: nn.Module,
        geometry: Geometry,
        *,
        name: str,
        fingerprint: str,
        device: str = "auto",
        precision: str = "auto",
        precision_loss: Mapping[str, float] = _NOT_MEASURED,
        batch: int | None = None,
    ) -> None:
        self._device = choose_device(device)
        self._network = network.eval().requires_grad_(False)
        for part in network.modules() if geometry.exact else ():
            if isinstance(part, ImageNetwork):
                part.skip_halo()
        self._network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.name = name
        self.fingerprint = fingerprint
        self.scale, self.halo = geometry.scale, geometry.halo
        self.exact, self.fade = geometry.exact, geometry.fade
        self.size_multiple = geometry.size_multiple
        self.device = str(self._device)
        self.precision = choose_precision(precision, self._device, precision_loss)
        self.batch = batch or (_CUDA_BATCH if self._device.type == "cuda" else 1)
        self.incidents: list[str] = []

    @classmethod
    def from_weights(
        cls,
        weights: Weights,
        *,
        name: str,
        device: str,
        precision: str,
        precision_loss: Mapping[str, float] = _NOT_MEASURED,
    ) -> "NetworkUpscaler":
        """Make an upscaler of loaded weights."""
        return cls(
            weights.assembled(),
            weights.geometry,
            name=name,
            fingerprint=weights.fingerprint,
            device=device,
            precision=precision,
            precision_loss=precision_loss,
        )

    def __call__(self, batch: NDArray[np.uint8]) -> Pixels:
        """Enlarge uint8 (N, h, w, 3); see `models.upscaler.PatchUpscaler`."""
        count, height, width, _ = batch.shape
        least = 2 * self.halo + 1 if self.exact else 1  # an exact network may skip the halo
        sides = [max(side, least) for side in (height, width)]
        sides = [side + -side % self.size_multiple for side in sides]
        padding = [(0, padded - side) for padded, side in zip(sides, (height, width), strict=True)]
        padded = np.pad(batch, [(0, 0), *padding, (0, 0)], mode="symmetric")
        shape = (count, self.scale * height, self.scale * width, 3)
        out: Pixels = np.empty(shape, np.uint8) if self.exact else np.empty(shape, np.float32)
        first = 0
        while first < count:
            chosen = slice(first, min(first + self.batch, count))
            enlarged = self._enlarge(padded[chosen], first)
            if enlarged is None:
                self._halve_batch()
                continue
            out[chosen] = enlarged[:, : shape[1], : shape[2]]
            first = chosen.stop
        return out

    def _enlarge(self, patches: NDArray[np.uint8], first: int) -> Pixels | None:
        """Enlarge one batch; None if out of memory, so that the failed attempt's tensors are freed on return."""
        try:
            return self._enlarge_finite(patches, first)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _halve_batch(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if self.batch == 1:
            message = f"{self.name}: one patch does not fit into the memory of {self.device}; free some, or use the CPU"
            raise OutOfMemoryError(message)
        self.incidents.append(f"out of memory on {self.device}: batch of {self.batch} halved to {self.batch // 2}")
        self.batch //= 2

    @torch.inference_mode()
    def _enlarge_finite(self, patches: NDArray[np.uint8], first: int) -> Pixels:
        """Enlarge one batch, in float32 if the output is not finite otherwise."""
        image = self._forward(patches, self.precision)
        if self.precision != "fp32" and not torch.isfinite(image).all():
            self.incidents.append(f"non-finite output in {self.precision}: batch of {len(patches)} computed in fp32")
            image = self._forward(patches, "fp32")
        finite = torch.isfinite(image).flatten(1).all(1)
        if not finite.all():
            index = first + int(finite.logical_not().nonzero()[0])
            raise NonFiniteOutputError(f"{self.name}: the output of patch {index} has NaN or infinity", index)
        image = image.mul(255)
        image = image.round().clamp(0, 255).to(torch.uint8) if self.exact else image.clamp(0, 255)
        pixels: Pixels = image.permute(0, 2, 3, 1).cpu().numpy()
        return pixels

    def _forward(self, patches: NDArray[np.uint8], precision: str) -> Tensor:
        """(n, 3, scale*h, scale*w) float32 in about [0, 1]."""
        channels_last = torch.from_numpy(np.ascontiguousarray(patches)).permute(0, 3, 1, 2).to(self._device)
        if self._device.type == "cpu" and len(patches) == 1 and patches.size <= _OTHER_KERNEL_VALUES:
            # Two copies are convolved by the kernel of larger patches, so that a narrow last tile joins exactly.
            channels_last = channels_last.repeat(2, 1, 1, 1)
        body = torch.autocast(self._device.type, PRECISIONS[precision], enabled=precision != "fp32")
        with body, _deterministic(self._device, precision):
            out: Tensor = self._network(channels_last.float().div(255))
        return out[: len(patches)].float()


def choose_device(device: str) -> torch.device:
    """Return the named device; "auto" is CUDA if available.

    Raises
    ------
    DeviceError
        If the name is unknown, or the device is not available.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"{device}: no such device; use auto, cpu, cuda or cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise DeviceError(f"{device}: not supported; use auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and not (chosen.index or 0) < torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise DeviceError(f"{device}: not available; torch {torch.__version__} sees {count} CUDA devices")
    return chosen


def choose_precision(precision: str, device: torch.device, precision_loss: Mapping[str, float] = _NOT_MEASURED) -> str:
    """Resolve "auto": fp16 on CUDA, bf16 on CPUs with bf16 arithmetic, fp32 where these lose too much.

    On CUDA fp16 is as fast as bf16 and rounds eight times finer; a batch that overflows is computed again in fp32.

    Parameters
    ----------
    precision_loss
        Precision -> measured loss of PSNR-Y against float32 in dB; losses above `MAX_PRECISION_LOSS` are not accepted.
        On a CPU, where bf16 has cost 0.1 dB, a precision that was not measured is not chosen.

    Raises
    ------
    ValueError
        If the precision is unknown.
    """
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(f"{precision}: no such precision; use auto, {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "fp16" if precision_loss.get("fp16", 0.0) <= MAX_PRECISION_LOSS else "fp32"
    cheap = precision_loss.get("bf16", MAX_PRECISION_LOSS + 1) <= MAX_PRECISION_LOSS
    return "bf16" if cheap and computes_in_bf16(device) else "fp32"


def computes_in_bf16(device: torch.device) -> bool:
    """Return whether the hardware has bf16 arithmetic; emulated bf16 is slower than float32."""
    return device.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether the device's memory was exhausted; the CPU's allocator reports it only in the message."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _NO_MEMORY)


def _deterministic(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """On CUDA: deterministic algorithms without benchmarking, and no TF32 for fp32.

    With a 16-bit body TF32 is allowed for the layers outside autocast: its mantissa is as long as fp16's.
    """
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=precision != "fp32")
