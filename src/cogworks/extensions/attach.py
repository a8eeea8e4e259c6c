"""Attach extensions to a transformer, and take them off again without a trace.

A network declares seams: modules that may be replaced. An extension says, by path pattern, what it puts in their
place; each replacement is a `Wrapper` that holds the previous occupant as `inner` and is called alike. Wrappers nest
in a fixed order, whatever the order of the calls.

Keys of the state dict do not change: a wrapper saves and loads its occupant's weights under the occupant's names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor, nn

from cogworks.errors import ExtensionError


class Place(IntEnum):
    """The order of wrappers at one seam, inside to outside."""

    KERNEL = 0  # inner attention: which softmax kernel
    WEIGHT = 5  # linears: how the weight is held
    ADAPTER = 10  # linears: what is added to their output; several share a seam, since sums have no order
    RECOMPUTATION = 20  # block runner: what is kept for the backward pass


class Wrapper(nn.Module):
    """Stands in a module's place. Subclasses call `self.inner` and keep its signature.

    Attributes:
        returns_fresh: whether nobody holds what `forward` has just returned, so that a block may write over it. A
            wrapper that keeps results, or hands on what its `inner` returns, leaves it False.
    """

    returns_fresh: ClassVar[bool] = False
    inner: nn.Module
    place: Place

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_state_dict_post_hook(_hide_inner)
        self.register_load_state_dict_pre_hook(_show_inner)


WrapperFactory = Callable[[str, nn.Module], Wrapper]


class Extension(Protocol):
    """A frozen dataclass of options that says where it goes and what it puts there."""

    @property
    def place(self) -> Place:
        """Where among other wrappers. Two extensions of one place cannot share a seam, adapters excepted."""

    def wrappers(self) -> Sequence[tuple[str, WrapperFactory]]:
        """(path pattern, factory) pairs; `blocks.*.attention.inner` matches every block."""


class Attachment:
    """What is attached to a network. Leaving it as a context manager, or `detach`, restores the network bitwise."""

    def __init__(self, network: nn.Module, extensions: Sequence[Extension]) -> None:
        self.network = network
        self.extensions = tuple(sorted(extensions, key=lambda extension: extension.place))
        self.paths: list[str] = []
        self._replaced: list[tuple[str, nn.Module, Wrapper]] = []
        try:
            for extension in self.extensions:
                self._attach(extension)
        except BaseException:
            self.detach()
            raise

    def _attach(self, extension: Extension) -> None:
        for pattern, factory in extension.wrappers():
            try:
                matches = matching_paths(self.network, pattern)
            except ExtensionError as error:
                raise ExtensionError(f"{extension} matches nothing: {error}") from None
            for path in matches:
                occupant = self.network.get_submodule(path)
                self._check_order(extension, path, occupant)
                wrapper = factory(path, occupant)
                wrapper.place = extension.place
                wrapper.train(occupant.training)
                self.network.set_submodule(path, wrapper)
                self._replaced.append((path, occupant, wrapper))
                self.paths.append(path)

    @staticmethod
    def _check_order(extension: Extension, path: str, occupant: nn.Module) -> None:
        if not isinstance(occupant, Wrapper) or occupant.place == extension.place == Place.ADAPTER:
            return
        if occupant.place >= extension.place:
            raise ExtensionError(
                f"{extension} cannot go to {path!r}: {type(occupant).__name__} is attached there already; "
                "attach both in one call, or detach the other first"
            )

    def detach(self) -> None:
        """Put every replaced module back, last first. Detaching twice does nothing more.

        Raises:
            ExtensionError: something else was attached on top and has to be detached first.
        """
        for path, occupant, wrapper in reversed(self._replaced):
            if self.network.get_submodule(path) is not wrapper:
                raise ExtensionError(f"{path!r} was wrapped again since; detach what was attached later first")
            self.network.set_submodule(path, occupant)
        self._replaced.clear()
        self.paths.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.detach()


def attach(network: nn.Module, *extensions: Extension) -> Attachment:
    """Attach `extensions`, ordered by their places.

    Use it as a context manager, or keep the handle and call `detach`.

    Raises:
        ExtensionError: a pattern matches nothing, or two extensions want one place of one seam. Nothing stays
            attached then.
    """
    return Attachment(network, extensions)


def matching_paths(network: nn.Module, pattern: str) -> list[str]:
    """The paths of the modules that a pattern names, in the network's order. Raises ExtensionError if there is none."""
    seams = list(_seams(network))
    matches = [path for path in seams if fnmatchcase(path, pattern)]
    if not matches:
        raise ExtensionError(f"this network has no module at {pattern!r}{_near(pattern, seams)}")
    return matches


def _seams(network: nn.Module, prefix: str = "") -> Iterator[str]:
    """The path of every module, wrapped or not; what is inside a wrapper counts as its occupant's."""
    for name, child in network.named_children():
        path = f"{prefix}{name}"
        yield path
        while isinstance(child, Wrapper):
            child = child.inner
        yield from _seams(child, f"{path}.")


def _near(pattern: str, seams: Iterable[str]) -> str:
    """The paths that look most like `pattern`, numbers of layers left open, for an error."""
    known = list(dict.fromkeys(re.sub(r"\b\d+\b", "*", path) for path in seams))
    close = difflib.get_close_matches(re.sub(r"\b\d+\b", "*", pattern), known, n=3)
    return f"; near it are {', '.join(close)}" if close else ""


def _hide_inner(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}inner.")]:
        state[prefix + key.removeprefix(f"{prefix}inner.")] = state.pop(key)


def _show_inner(module: nn.Module, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
    own = {prefix + name for name, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]}
    for key in [key for key in state if key.startswith(prefix) and key not in own]:
        state[f"{prefix}inner." + key.removeprefix(prefix)] = state.pop(key)
