"""The LoRAs of a pipeline, under the method names of diffusers.

What diffusers calls an adapter name is the name of a LoRA here, an adapter weight its scale.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from cogworks.config.request import LoRAUse
from cogworks.errors import RequestError
from cogworks.extensions.attach import Attachment, attach
from cogworks.extensions.lora import StoredLoRA, bake, lora_names, merge
from cogworks.models.transformer import Transformer
from cogworks.nn.low_rank import LowRank
from cogworks.weights.lora import read_lora
from cogworks.weights.lora_fit import check_fit


def apply_loras(transformer: Transformer, loras: Sequence[tuple[str | Path, float]]) -> Attachment:
    """Attach LoRAs from files, each at its scale, after the names of their files.

    The attachment is a context manager; leaving it, or `detach`, restores the transformer bitwise.

    Raises:
        WeightsError: a file is missing, damaged, no LoRA, or made for another model. Nothing is attached then.
    """
    taken = set(lora_names(transformer))
    extensions = []
    for path, scale in loras:
        name = _free_name(re.sub(r"[^\w-]+", "_", Path(path).stem) or "lora", taken)
        taken.add(name)
        extensions.append(StoredLoRA(_read(path, transformer), scale=scale, name=name))
    return attach(transformer, *extensions)


class Adapters:
    """The LoRAs that are loaded beside one transformer, of which some are active.

    An active LoRA is attached; one that is not costs no time. Nothing of the transformer is changed for good, except
    by unloading while fused.
    """

    def __init__(self, transformer: Transformer) -> None:
        self.transformer = transformer
        self._loaded: dict[str, tuple[LowRank, ...]] = {}
        self._active: dict[str, float] = {}
        self._attachment: Attachment | None = None
        self._fused = False

    def load_lora_weights(
        self, path: str | Path, adapter_name: str | None = None, *, weight_name: str | None = None
    ) -> None:
        """Load a LoRA of any dialect and make it the only active one, at scale 1; `set_adapters` combines several.

        Args:
            path: a file, or a folder that holds one.
            adapter_name: its name; without it `default_0`, `default_1` and so on.
            weight_name: the file, where `path` is a folder with several.

        Raises:
            WeightsError: it cannot be read, or was made for another model.
            RequestError: the name is taken, or LoRAs are fused.
        """
        self._refuse_fused("load a LoRA")
        if adapter_name is not None and adapter_name in self._loaded:
            raise RequestError(f"a LoRA named {adapter_name!r} is loaded already; choose another adapter_name")
        name = adapter_name or next(
            name for number in count(len(self._loaded)) if (name := f"default_{number}") not in self._loaded
        )
        pairs = _read(Path(path) / weight_name if weight_name else path, self.transformer)
        self._set({**self._loaded, name: pairs}, {name: 1.0})

    def set_adapters(
        self, adapter_names: str | Sequence[str], adapter_weights: float | Sequence[float | None] | None = None
    ) -> None:
        """Make these LoRAs active, and no others.

        Args:
            adapter_weights: their scales: one for all, or one each; None stands for 1.

        Raises:
            RequestError: a name is not loaded, the counts differ, or LoRAs are fused.
        """
        self._refuse_fused("change LoRAs")
        names = self._known(adapter_names)
        several = isinstance(adapter_weights, Sequence)
        weights = list(adapter_weights) if isinstance(adapter_weights, Sequence) else [adapter_weights] * len(names)
        if several and len(weights) != len(names):
            raise RequestError(f"got {len(weights)} adapter_weights for {len(names)} adapter_names")
        self._set(self._loaded, {n: 1.0 if w is None else float(w) for n, w in zip(names, weights, strict=True)})

    def get_active_adapters(self) -> list[str]:
        """Names of the active LoRAs."""
        return list(self._active)

    def get_list_adapters(self) -> dict[str, list[str]]:
        """Names of all loaded LoRAs, by component."""
        return {"transformer": list(self._loaded)} if self._loaded else {}

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        """Forget LoRAs. Raises RequestError if one is not loaded, or LoRAs are fused."""
        self._refuse_fused("delete a LoRA")
        gone = set(self._known(adapter_names))
        self._set(
            {name: pairs for name, pairs in self._loaded.items() if name not in gone},
            {name: scale for name, scale in self._active.items() if name not in gone},
        )

    def fuse_lora(self, *, lora_scale: float = 1.0, adapter_names: str | Sequence[str] | None = None) -> None:
        """Add the active LoRAs to the weights: each step then costs what it costs without them.

        Args:
            lora_scale: multiplies the scale of each.
            adapter_names: these instead of the active ones, at the scales they have, or 1.

        Raises:
            RequestError: no LoRA is active, a name is not loaded, or LoRAs are fused already.
        """
        self._refuse_fused("fuse again")
        names = list(self._active) if adapter_names is None else self._known(adapter_names)
        if not names:
            raise RequestError("there is no active LoRA to fuse; load one, or choose with set_adapters")
        self._attach({name: self._active.get(name, 1.0) * lora_scale for name in names})
        merge(self.transformer)
        self._fused = True

    def unfuse_lora(self) -> None:
        """Take the fused LoRAs out again, bitwise; they are active as before. Without fused ones nothing happens."""
        if self._fused:
            self._fused = False
            self._attach(self._active)

    def unload_lora_weights(self) -> None:
        """Forget all LoRAs. Those that are fused stay in the weights for good, as diffusers has it."""
        if self._fused:
            bake(self.transformer)
        self._fused = False
        self._set({}, {})

    @contextmanager
    def used(self, loras: Sequence[LoRAUse]) -> Iterator[None]:
        """Attach LoRAs of a request, beside those that are active, for the time of a block.

        Raises:
            WeightsError: as `apply_loras`.
        """
        with apply_loras(self.transformer, [(use.path, use.scale) for use in loras]):
            yield

    def _set(self, loaded: dict[str, tuple[LowRank, ...]], active: dict[str, float]) -> None:
        """Become this state, or stay what it was if that fails."""
        before = self._loaded
        self._loaded = loaded
        try:
            self._attach(active)
        except BaseException:
            self._loaded = before
            self._attach(self._active)
            raise
        self._active = active

    def _attach(self, active: dict[str, float]) -> None:
        if self._attachment is not None:
            self._attachment.detach()
            self._attachment = None
        extensions = [StoredLoRA(self._loaded[name], scale=scale, name=name) for name, scale in active.items()]
        if extensions:
            self._attachment = attach(self.transformer, *extensions)

    def _known(self, names: str | Sequence[str]) -> list[str]:
        listed = [names] if isinstance(names, str) else list(names)
        for name in listed:
            if name not in self._loaded:
                held = ", ".join(self._loaded) or "none"
                raise RequestError(f"no LoRA named {name!r} is loaded; there are: {held}")
        return listed

    def _refuse_fused(self, what: str) -> None:
        if self._fused:
            raise RequestError(f"LoRAs are fused: call unfuse_lora, or unload_lora_weights to keep them, to {what}")


def _read(path: str | Path, transformer: Transformer) -> tuple[LowRank, ...]:
    lora = read_lora(path)
    check_fit(lora, transformer.config)
    return lora.pairs


def _free_name(wanted: str, taken: set[str]) -> str:
    if wanted not in taken:
        return wanted
    return next(name for number in count(2) if (name := f"{wanted}_{number}") not in taken)
