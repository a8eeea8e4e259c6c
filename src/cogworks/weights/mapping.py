"""Two-way tables between the parameter names of a file and ours, and the proof that nothing was lost.

A `Rule` names tensors on both sides by templates and says how the values go over. `convert` applies a table to a
whole state and proves that every source name is used or dropped on purpose and that every target name is written
exactly once. Nothing is read before the proof holds, and then one tensor at a time: a 22 GB file never needs a
second 22 GB.

In a template `{p}` is `weight` or `bias`, `{side}` is `encoder` or `decoder`, `{any}` is any text, and every other
field is a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

import torch
from torch import Tensor

from cogworks.errors import WeightsError

_FIELDS = {"p": "weight|bias", "side": "encoder|decoder", "any": ".+"}
_SHOWN = 4  # keys named in an error; the rest are counted


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is known by shape and dtype, and read when it is needed.

    Attributes:
        read: gives the tensor. Where it lies in a mapped file, that stays in memory with all that was read of it.
        to_copy: the same for who makes another tensor of it and lets it go: through a map of its own, so that what was
            read so does not stay. None where `read` does as well.
    """

    shape: torch.Size
    dtype: torch.dtype
    read: Callable[[], Tensor]
    to_copy: Callable[[], Tensor] | None = None

    def read_to_copy(self) -> Tensor:
        """The tensor, to make another one of it and to let it go."""
        return (self.to_copy or self.read)()

    def meta(self) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device="meta")

    @property
    def num_bytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize


State = Mapping[str, LazyTensor]


def lazy_state(tensors: Mapping[str, Tensor]) -> dict[str, LazyTensor]:
    """Wrap tensors that are in memory already."""

    def identity(tensor: Tensor) -> Tensor:
        return tensor

    return {key: LazyTensor(t.shape, t.dtype, partial(identity, t)) for key, t in tensors.items()}


@dataclass(frozen=True)
class Transform:
    """A pair of inverse functions between a list of source tensors and a list of target tensors.

    Attributes:
        copies: what `forward` gives has memory of its own; otherwise it looks into what it was given.
    """

    forward: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    backward: Callable[[Sequence[Tensor]], Sequence[Tensor]]
    copies: bool = False

    def inverse(self) -> Transform:
        return Transform(self.backward, self.forward)


SAME = Transform(list, list)


def interleaved_rows(num_sources: int, parts: int = 1) -> Transform:
    """Several matrices to one: part 0 of each under each other, then part 1 of each, and so on.

    `parts=1` stacks them. Works on weights and biases alike.
    """

    def forward(sources: Sequence[Tensor]) -> list[Tensor]:
        pieces = [source.unflatten(0, (parts, -1)) for source in sources]
        return [_under_each_other([piece[part] for part in range(parts) for piece in pieces])]

    def backward(targets: Sequence[Tensor]) -> list[Tensor]:
        rows = targets[0].unflatten(0, (parts, num_sources, -1))
        return [rows[:, source].flatten(0, 1) for source in range(num_sources)]

    return Transform(forward, backward, copies=True)


def _under_each_other(pieces: Sequence[Tensor]) -> Tensor:
    """`torch.cat`; not for tensors without values, where it would import torch's compiler: 1.5 seconds and 70 MB."""
    first = pieces[0]
    if not first.is_meta:
        return torch.cat(list(pieces))
    if any(piece.shape[1:] != first.shape[1:] for piece in pieces):
        raise ValueError("rows of different lengths do not go under each other")
    return first.new_empty((sum(len(piece) for piece in pieces), *first.shape[1:]))


def flattened_columns(shape: Sequence[int]) -> Transform:
    """A convolution weight (D, *shape) to the linear weight (D, product of shape), and back."""
    return Transform(
        lambda sources: [sources[0].flatten(1)],
        lambda targets: [targets[0].unflatten(1, tuple(shape))],
    )


@dataclass(frozen=True)
class Rule:
    """How some tensors of the source become some tensors of the target.

    Attributes:
        sources: name templates, in the order the transform takes them.
        targets: name templates, in the order it returns them; none if the sources are dropped.
        transform: the values.
        alias: a second spelling of something another rule writes. It is read where it stands alone, must be equal
            where both are there, and is never written.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    transform: Transform = SAME
    alias: bool = False


def same(source: str, target: str, *, alias: bool = False) -> Rule:
    """One tensor under another name."""
    return Rule((source,), (target,), alias=alias)


def drop(*sources: str) -> Rule:
    """Tensors that the target does not have."""
    return Rule(sources, ())


def reverse(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The same table in the other direction. Aliases and drops have none."""
    return tuple(
        Rule(rule.targets, rule.sources, rule.transform.inverse()) for rule in rules if rule.targets and not rule.alias
    )


def convert(
    state: State, rules: Sequence[Rule], *, origin: str, expected: Mapping[str, torch.Size] | None = None
) -> dict[str, LazyTensor]:
    """Apply a table to a whole state, without reading a tensor.

    Args:
        state: the source tensors by name.
        rules: the table; where a name fits several rules the first one takes it.
        origin: what the state was read from, for messages.
        expected: shape of every target tensor. Without it the shapes are what the table gives.

    Returns:
        The target tensors by name; each is computed when it is read.

    Raises:
        WeightsError: a source name fits no rule, a target is missing, written twice or has another shape, a rule
            lacks one of its sources, or a tensor does not hold floating-point numbers.
    """
    result, mismatch = match(state, rules, origin=origin, expected=expected)
    mismatch.raise_if_any()
    return result


def match(
    state: State, rules: Sequence[Rule], *, origin: str, expected: Mapping[str, torch.Size] | None = None
) -> tuple[dict[str, LazyTensor], Mismatch]:
    """What `convert` does, with a list of all that is wrong in place of the error."""
    groups, unknown = _group(state, rules)
    report = Mismatch(origin, extra=unknown)
    result: dict[str, LazyTensor] = {}
    for group in sorted(groups, key=lambda group: group.rule.alias):
        missing = [name for name in group.names if name not in group.keys]
        report.missing += missing
        if missing:
            continue
        sources = [state[key] for key in group.names]
        not_float = [key for key in group.names if not state[key].dtype.is_floating_point]
        report.misfits += [f"{key} holds {state[key].dtype}, expected floating-point numbers" for key in not_float]
        metas = _shapes(group, sources, report)
        for index, (target, meta) in enumerate(zip(group.targets, metas, strict=False)):
            compute = partial(_compute, group.rule.transform, sources, index)
            tensor = LazyTensor(meta.shape, meta.dtype, compute, partial(compute, to_copy=True))
            if target in result:
                _compare_twice(group, target, tensor, result[target], report)
                continue
            result[target] = tensor
            if expected is None:
                continue
            if target not in expected:
                report.extra += group.names
            elif meta.shape != expected[target]:
                shapes = ", ".join(str(tuple(source.shape)) for source in sources)
                want = ", ".join(str(s) for s in _source_shapes(group, expected))
                report.misfits.append(f"{group.names[0]} is {shapes}, expected {want}")
    written = set(result) | {target for group in groups for target in group.targets}
    report.missing += [_source_name(target, rules) for target in expected or () if target not in written]
    return result, report


@dataclass(frozen=True)
class _Group:
    """One use of a rule: the names it needs, those that are there, and the names it writes."""

    rule: Rule
    names: tuple[str, ...]
    targets: tuple[str, ...]
    keys: set[str]


@dataclass
class Mismatch:
    """What is wrong with a state: names it should not hold, names it should, and what is wrong with those it does."""

    origin: str
    extra: list[str]
    missing: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)

    def raise_if_any(self) -> None:
        parts = [
            f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
            for kind, names in (
                ("missing", self.missing),
                ("not known to this model", self.extra),
                ("of the wrong shape or type", self.misfits),
            )
            if names
        ]
        if parts:
            raise WeightsError(
                f"{self.origin} does not hold the weights of this model. Tensors {'; '.join(parts)}. "
                "Check that the file is complete and belongs to the configuration beside it."
            )


def _group(state: State, rules: Sequence[Rule]) -> tuple[list[_Group], list[str]]:
    """Sort the names of `state` under the rules that take them; return those that fit none."""
    groups: dict[tuple[int, tuple[str, ...]], _Group] = {}
    unknown = []
    for key in state:
        found = _find(key, rules)
        if found is None:
            unknown.append(key)
            continue
        index, fields = found
        rule = rules[index]
        if not rule.targets:
            continue
        names = tuple(template.format(**fields) for template in rule.sources)
        targets = tuple(template.format(**fields) for template in rule.targets)
        groups.setdefault((index, names), _Group(rule, names, targets, set())).keys.add(key)
    return list(groups.values()), unknown


def _find(key: str, rules: Sequence[Rule]) -> tuple[int, dict[str, str]] | None:
    for index, rule in enumerate(rules):
        for template in rule.sources:
            match = _pattern(template).fullmatch(key)
            if match:
                return index, match.groupdict()
    return None


@lru_cache(maxsize=4096)
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    texts = [
        re.escape(part) if i % 2 == 0 else f"(?P<{part}>{_FIELDS.get(part, '[0-9]+')})" for i, part in enumerate(parts)
    ]
    return re.compile("".join(texts))


def _shapes(group: _Group, sources: Sequence[LazyTensor], report: Mismatch) -> Sequence[Tensor]:
    """The targets of a group as meta tensors; none, and a line in the report, if the shapes do not go together."""
    try:
        return group.rule.transform.forward([source.meta() for source in sources])
    except (RuntimeError, ValueError, IndexError):
        shapes = ", ".join(str(tuple(source.shape)) for source in sources)
        report.misfits.append(f"{', '.join(group.names)}: {shapes} do not go together")
        return []


def _compute(transform: Transform, sources: Sequence[LazyTensor], index: int, *, to_copy: bool = False) -> Tensor:
    if to_copy or transform.copies:
        return transform.forward([source.read_to_copy() for source in sources])[index]
    return transform.forward([source.read() for source in sources])[index]


def _compare_twice(group: _Group, target: str, tensor: LazyTensor, other: LazyTensor, report: Mismatch) -> None:
    """A target that is there twice: an error, unless the second one is an alias with the same values."""
    if not group.rule.alias:
        report.misfits.append(f"{group.names[0]} would be written to {target} a second time")
    elif tensor.shape != other.shape or not torch.equal(tensor.read(), other.read()):
        report.misfits.append(f"{group.names[0]} is there in two spellings with different values")


def _source_shapes(group: _Group, expected: Mapping[str, torch.Size]) -> list[tuple[int, ...]]:
    metas = [torch.empty(expected[target], device="meta") for target in group.targets]
    return [tuple(meta.shape) for meta in group.rule.transform.backward(metas)]


def _source_name(target: str, rules: Sequence[Rule]) -> str:
    """The name under which the source should have held `target`."""
    backwards = reverse(rules)
    found = _find(target, backwards)
    if found is None:
        return target
    index, fields = found
    return backwards[index].targets[0].format(**fields)
