"""How unlike two pictures look: the distance between the features that a fixed network finds in them.

With weights from files this is LPIPS 0.1 with VGG16. Without them the features are those of oriented filters, which
are made here from formulas: a documented substitute, whose numbers are its own.

Letters: N pictures, C channels, H W pixels.
Sources: LPIPS, arXiv:1801.03924 (unit features, squared differences, linear heads, mean over positions) and its
published weights 0.1; VGG16, arXiv:1409.1556, configuration D. The substitute: Gabor filters, and the division of
responses by those around them, as in arXiv:1607.05006.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cogworks.config.vae_recipe import PerceptualOptions
from cogworks.errors import DataError, WeightsError
from cogworks.training.vae.losses import without_autocast
from cogworks.weights.files import open_safetensors
from cogworks.weights.mapping import LazyTensor
from cogworks.weights.pickles import read_tensors

log = logging.getLogger(__name__)

VGG_STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Numbers of VGG16's convolutions in torchvision's list of layers; a stage begins with a maximum over 2x2, but the
first, and its last ReLU is a layer of LPIPS."""
LPIPS_SHIFT = (-0.030, -0.088, -0.188)
LPIPS_SCALE = (0.458, 0.448, 0.450)
LPIPS_FLOOR = 1e-10

GABOR_SIZE = 7  # pixels
GABOR_WAVELENGTH = 4.0  # pixels
GABOR_SIGMA = 1.8  # pixels
ORIENTATIONS = 4
SCALES = 4
OPPONENT = ((0.299, 0.587, 0.114), (0.5, -0.5, 0.0), (-0.25, -0.25, 0.5))
"""Light, red against green, blue against yellow."""
RESPONSE_FLOOR = 0.5  # the response of an edge of medium contrast; much weaker ones hardly count
ENERGY_FLOOR = 1e-6  # keeps the gradient of a root finite where nothing is seen


class Perceptual(nn.Module):
    """A distance between pictures that learns nothing; gradients reach the pictures.

    Args:
        features: pictures (N, 3, H, W) in [-1, 1] -> layers (N, C, H', W').
        heads: for each layer the (C,) weights of its channels, not negative.
        floor: length of a feature vector below which it counts less than others; beside zero all count the same.
        smallest: fewest pixels of height and width.
    """

    def __init__(self, features: nn.Module, heads: Sequence[Tensor], floor: float, smallest: int) -> None:
        super().__init__()
        self.features = features
        self.floor = floor
        self.smallest = smallest
        self.num_layers = len(heads)
        for index, head in enumerate(heads):
            self.register_buffer(f"head{index}", head)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (N,) float32 between pictures a and b, each (N, 3, H, W) in [-1, 1].

        Raises:
            DataError: the pictures are too small for the network.
        """
        if min(a.shape[-2:]) < self.smallest:
            raise DataError(
                f"the perceptual loss needs pictures of at least {self.smallest} pixels a side, got "
                f"{a.shape[-2]}x{a.shape[-1]}; take larger ones, or leave perceptual out"
            )
        with without_autocast(a):
            layers = zip(range(self.num_layers), self.features(a.float()), self.features(b.float()), strict=False)
            distances = [self._distance(self.get_buffer(f"head{index}"), *pair) for index, *pair in layers]
            return torch.stack(distances).sum(0)

    def _distance(self, head: Tensor, a: Tensor, b: Tensor) -> Tensor:  # (C,), (N, C, H, W), same -> (N,)
        squared = (unit(a, self.floor) - unit(b, self.floor)).square()
        return torch.einsum("c,nchw->nhw", head, squared).mean((1, 2))


def unit(features: Tensor, floor: float) -> Tensor:
    """Divide each position's channels (N, C, H, W) by their length, or by `floor` where that is longer by far.

    The floor is inside the root, so that the gradient is finite where all channels are zero.
    """
    return features * torch.rsqrt(features.square().sum(1, keepdim=True) + floor**2)


class VGG16(nn.Module):
    """The five layers of LPIPS. The widths are those of the weights.

    Args:
        weights, biases: of the thirteen convolutions.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weights)
        self.biases = nn.ParameterList(biases)
        self.register_buffer("shift", torch.tensor(LPIPS_SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(LPIPS_SCALE)[:, None, None])

    def forward(self, pictures: Tensor) -> Iterator[Tensor]:
        """(N, 3, H, W) in [-1, 1] -> layers (N, C, H / 2^i, W / 2^i)."""
        x = (pictures - self.get_buffer("shift")) / self.get_buffer("scale")
        convolutions = zip(self.weights, self.biases, strict=True)
        for index, stage in enumerate(VGG_STAGES):
            x = F.max_pool2d(x, 2) if index else x
            for weight, bias in itertools.islice(convolutions, len(stage)):
                x = F.relu(F.conv2d(x, weight, bias, padding=1))
            yield x


class OrientedFilters(nn.Module):
    """Gabor filters of four orientations and two phases, on three opponent colours, at four scales.

    Each scale gives two layers: the responses, which know where an edge is, and their energies, averaged over 2x2
    positions, which know how much there is. Flat colours give none: the absolute error sees those.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernels", gabor_kernels()[:, None])  # (8, 1, 7, 7)
        self.register_buffer("colours", torch.tensor(OPPONENT)[:, :, None, None])  # (3, 3, 1, 1)

    def forward(self, pictures: Tensor) -> Iterator[Tensor]:
        """(N, 3, H, W) in [-1, 1] -> layers (N, 24, ., .) and (N, 12, ., .) of each scale that is large enough."""
        x = F.conv2d(pictures, self.get_buffer("colours"))
        for scale in range(SCALES):
            x = F.avg_pool2d(x, 2) if scale else x
            if min(x.shape[-2:]) < GABOR_SIZE:
                return
            responses = F.conv2d(x.flatten(0, 1)[:, None], self.get_buffer("kernels"))  # (3N, 8, ., .)
            even, odd = responses.chunk(2, dim=1)
            energy = (even.square() + odd.square() + ENERGY_FLOOR).sqrt()
            yield responses.unflatten(0, (-1, 3)).flatten(1, 2)
            yield F.avg_pool2d(energy, 2, ceil_mode=True).unflatten(0, (-1, 3)).flatten(1, 2)


def gabor_kernels() -> Tensor:
    """(8, 7, 7) float32 of mean zero and length one: four orientations of even phase, then the same of odd phase."""
    place = torch.arange(GABOR_SIZE, dtype=torch.float64) - GABOR_SIZE // 2
    y, x = torch.meshgrid(place, place, indexing="ij")
    window = torch.exp(-(x.square() + y.square()) / (2 * GABOR_SIGMA**2))
    kernels = []
    for wave in (torch.cos, torch.sin):
        for index in range(ORIENTATIONS):
            angle = math.pi * index / ORIENTATIONS
            along = (x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / GABOR_WAVELENGTH)
            kernel = window * wave(along)
            kernel = kernel - window * (kernel.sum() / window.sum())
            kernels.append(kernel / kernel.norm())
    return torch.stack(kernels).float()


def build_perceptual(options: PerceptualOptions) -> Perceptual:
    """What a recipe asks for, in evaluation mode; the log says which it is.

    Raises:
        WeightsError: a file is missing or damaged, or does not hold exactly the weights of LPIPS.
    """
    if options.vgg is None:
        layers = 2 * SCALES
        widths = (2 * ORIENTATIONS * 3, ORIENTATIONS * 3) * SCALES
        heads = [torch.full((width,), 1 / layers) for width in widths]
        perceptual = Perceptual(OrientedFilters(), heads, RESPONSE_FLOOR, GABOR_SIZE)
        log.info("perceptual loss: fixed oriented filters, a substitute for LPIPS, whose weights are not given")
    else:
        perceptual = _lpips(options.vgg, options.heads)
        log.info("perceptual loss: LPIPS with VGG16 of %s", options.vgg)
    return perceptual.eval().requires_grad_(False)


def _lpips(vgg: Path, heads: Path | None) -> Perceptual:
    names = [f"features.{number}" for stage in VGG_STAGES for number in stage]
    head_names = [f"lin{index}.model.1.weight" for index in range(len(VGG_STAGES))]
    wanted = [f"{name}.{part}" for name in names for part in ("weight", "bias")]
    # torchvision's file holds the classifier too, which LPIPS does not use.
    held = {key: tensor for key, tensor in _open(vgg).items() if not key.startswith("classifier.")}
    if heads is None:
        state = _read_exactly(vgg, held, [*wanted, *head_names])
    else:
        state = _read_exactly(vgg, held, wanted) | _read_exactly(heads, _open(heads), head_names)
    _check_shapes(vgg, state, names, head_names)
    network = VGG16([state[f"{name}.weight"] for name in names], [state[f"{name}.bias"] for name in names])
    return Perceptual(network, [state[name].flatten() for name in head_names], LPIPS_FLOOR, 2 ** (len(VGG_STAGES) - 1))


def _open(path: Path) -> dict[str, LazyTensor]:
    return open_safetensors(path) if path.suffix == ".safetensors" else read_tensors(path)


def _read_exactly(path: Path, held: dict[str, LazyTensor], wanted: list[str]) -> dict[str, Tensor]:
    missing, extra = [key for key in wanted if key not in held], sorted(held.keys() - set(wanted))
    if missing or extra:
        faults = [f"lacks {missing[0]} and {len(missing) - 1} more"] if missing else []
        faults += [f"holds {extra[0]} and {len(extra) - 1} more, which do not belong there"] if extra else []
        raise WeightsError(
            f"{path} {' and '.join(faults)}: expected {wanted[0]} to {wanted[-1]} of LPIPS 0.1 with VGG16"
        )
    return {key: held[key].read().float() for key in wanted}


def _check_shapes(path: Path, state: dict[str, Tensor], names: list[str], heads: list[str]) -> None:
    """Each convolution takes what the one before gives, and each head what its stage gives."""
    before, position = 3, 0
    for stage, head in zip(VGG_STAGES, heads, strict=True):
        for name in names[position : position + len(stage)]:
            weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
            if weight.shape[1:] != (before, 3, 3) or bias.shape != weight.shape[:1]:
                raise WeightsError(
                    f"{path}: {name} has weights of shape {tuple(weight.shape)}, expected (*, {before}, 3, 3)"
                )
            before = len(weight)
        position += len(stage)
        if state[head].numel() != before:
            raise WeightsError(f"{head} has {state[head].numel()} weights, and the features of {path} are {before}")
