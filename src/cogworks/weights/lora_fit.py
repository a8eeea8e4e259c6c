"""Which model a LoRA was made for, whether it fits another, and the weights of a model with LoRAs in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from torch import Tensor, nn

from cogworks.config.architecture import TransformerConfig
from cogworks.config.variants import COGVIDEOX_5B, VARIANTS, Variant
from cogworks.errors import WeightsError
from cogworks.nn.low_rank import LowRank, add_low_rank, row_slices
from cogworks.weights.components import empty_transformer
from cogworks.weights.convert import read_content
from cogworks.weights.lora import LoRAFile
from cogworks.weights.mapping import LazyTensor, State
from cogworks.weights.save import write_diffusers, write_sat
from cogworks.weights.source import resolve

_SHOWN = 1  # misfits told in an error; the rest are counted


@dataclass(frozen=True)
class MadeFor:
    """What the factors of a LoRA tell of the model that they were trained on.

    Attributes:
        num_layers: at least so many; a LoRA may leave the last ones out.
        width: of the tokens; None where it acts on nothing that tells.
        variants: known models of which both hold.
    """

    num_layers: int
    width: int | None
    variants: tuple[str, ...]

    def __str__(self) -> str:
        layers = f"{self.num_layers} layers" if self.num_layers else "a model"
        width = f" of width {self.width}" if self.width else ""
        return f"{layers}{width}" + (f" ({', '.join(self.variants)})" if self.variants else "")


def made_for(pairs: Sequence[LowRank]) -> MadeFor:
    """What can be told of the model that a LoRA was trained on."""
    layers = [int(part) for pair in pairs for part in pair.path.split(".") if part.isdigit()]
    num_layers = max(layers, default=-1) + 1
    widths = Counter(pair.lora_a.shape[1] for pair in pairs if ".attention." in pair.path)
    width = widths.most_common(1)[0][0] if widths else None
    fitting = tuple(name for name, variant in VARIANTS.items() if _fits(pairs, variant.transformer))
    exact = tuple(name for name in fitting if VARIANTS[name].transformer.num_layers == num_layers)
    return MadeFor(num_layers, width, exact or fitting)


def check_fit(lora: LoRAFile, config: TransformerConfig) -> None:
    """Raise WeightsError, which says what the LoRA was made for, unless it fits a transformer."""
    wrong = _misfits(lora.pairs, config)
    if wrong:
        listed = "; ".join(wrong[:_SHOWN]) + ("; ..." if len(wrong) > _SHOWN else "")
        raise WeightsError(
            f"{lora.path} is a LoRA for another model: it was made for {made_for(lora.pairs)}, and this one has "
            f"{config.num_layers} layers of width {config.width} ({len(wrong)} of {len(lora.pairs)} targets do not "
            f"fit: {listed})"
        )


def merge_folder(source: str | Path, loras: Sequence[tuple[LoRAFile, float]], target: str | Path) -> None:
    """Write a model with LoRAs in its weights, in the layout and dtype of the source, one tensor at a time.

    Args:
        source: whatever `source.resolve` takes.
        loras: each with its scale; 1 is as it was trained.
        target: a new or empty folder.

    Raises:
        WeightsError: the source is damaged, a LoRA does not fit it, or `target` is not empty.
    """
    folder = resolve(source)
    content = read_content(folder)
    variant: Variant = content.variant
    for lora, _ in loras:
        check_fit(lora, variant.transformer)
    assert content.transformer is not None
    merged = replace(content, transformer=merged_state(content.transformer, empty_transformer(variant), loras))
    (write_diffusers if folder.layout == "diffusers" else write_sat)(Path(target), merged)


def merged_state(state: State, network: nn.Module, loras: Sequence[tuple[LoRAFile, float]]) -> dict[str, LazyTensor]:
    """The tensors of a transformer by our names, with LoRAs added where they act. Nothing is read.

    Args:
        network: what the tensors are for, on any device; only shapes are looked at.
        loras: LoRAs that fit it, each with its scale.
    """
    by_path: dict[str, list[tuple[LowRank, float]]] = {}
    for lora, scale in loras:
        for pair in lora.pairs:
            by_path.setdefault(pair.path, []).append((pair, scale))
    result = dict(state)
    for path, pairs in by_path.items():
        base = state[f"{path}.weight"]
        linear = network.get_submodule(path)
        assert isinstance(linear, nn.Linear)
        result[f"{path}.weight"] = LazyTensor(base.shape, base.dtype, partial(_merged, base, linear, pairs))
    return result


def _merged(base: LazyTensor, linear: nn.Linear, pairs: Sequence[tuple[LowRank, float]]) -> Tensor:
    return add_low_rank(base.read(), linear, pairs).to(base.dtype)


def _fits(pairs: Sequence[LowRank], config: TransformerConfig) -> bool:
    return not _misfits(pairs, config)


def _misfits(pairs: Sequence[LowRank], config: TransformerConfig) -> list[str]:
    """What is wrong, a clause for each target that has no place or another shape."""
    linears, wrong = _linears(config), []
    for pair in pairs:
        linear = linears.get(pair.path)
        if linear is None:
            wrong.append(f"there is no {pair.path}")
            continue
        try:
            row_slices(linear, pair)
        except ValueError as error:
            wrong.append(str(error))
    return wrong


@lru_cache(maxsize=len(VARIANTS) + 1)
def _linears(config: TransformerConfig) -> Mapping[str, nn.Linear]:
    """The linears of a transformer by path, on the meta device."""
    network = empty_transformer(replace(COGVIDEOX_5B, transformer=config))
    return {path: module for path, module in network.named_modules() if isinstance(module, nn.Linear)}
