"""Linear layers, and those whose output rows have names."""

from __future__ import annotations

from torch import Tensor, nn

from cogworks.nn.products import linear


class Linear(nn.Linear):
    """`nn.Linear` by way of `linear`."""

    def forward(self, x: Tensor) -> Tensor:  # (..., I) -> (..., O)
        return linear(x, self.weight, self.bias)


class StackedLinear(Linear):
    """Several linears of one input, evaluated as one matrix product.

    An extension or a weights map may address one row block by its name.

    Args:
        in_features: width of the input.
        block_features: width of each row block.
        names: names of the row blocks, in the order of the rows.
    """

    def __init__(self, in_features: int, block_features: int, names: tuple[str, ...]) -> None:
        super().__init__(in_features, block_features * len(names))
        self.block_features = block_features
        self.names = names

    def rows(self, name: str) -> slice:
        """The output rows of one block. Raises KeyError with the known names."""
        if name not in self.names:
            raise KeyError(f"no row block named {name!r}; this layer has {', '.join(self.names)}")
        start = self.names.index(name) * self.block_features
        return slice(start, start + self.block_features)
