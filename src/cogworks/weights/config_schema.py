"""What a configuration file of another project may say, and how it becomes a dataclass of ours.

A value the networks here cannot honour is an error; a key that is not known is an error unless it is off (null or
false) or known to have no effect.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from cogworks.errors import WeightsError

DIFFUSERS_VERSION = "0.32.0"  # the first release that knows every key written here

T = TypeVar("T")


@dataclass(frozen=True)
class Schema:
    """What a configuration file may say.

    Attributes:
        classes: accepted values of `_class_name`.
        defaults: values of keys that the file leaves out; these are all keys with a meaning.
        fixed: keys with the one value that is supported.
        ignored: keys without an effect on inference.
    """

    classes: Collection[str]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]
    ignored: Collection[str] = field(default=())

    def read(self, config: Mapping[str, Any], origin: str) -> dict[str, Any]:
        """The values of all keys with a meaning. Raises WeightsError for what is not supported."""
        name = config.get("_class_name")
        if name not in self.classes:
            raise WeightsError(f"{origin} is the configuration of {name}, expected {' or '.join(self.classes)}")
        for key, value in config.items():
            if key.startswith("_") or key in self.defaults or key in self.ignored:
                continue
            if key in self.fixed:
                if value != self.fixed[key]:
                    raise WeightsError(f"{origin}: {key} is {value!r}, only {self.fixed[key]!r} is supported")
            elif value is not None and value is not False:
                raise WeightsError(f"{origin}: unknown key {key!r} with the value {value!r}; it may change the model")
        return {key: config.get(key, default) for key, default in self.defaults.items()}

    def write(self, values: Mapping[str, Any], name: str) -> dict[str, Any]:
        """A complete file, with `values` over the defaults."""
        head = {"_class_name": name, "_diffusers_version": DIFFUSERS_VERSION}
        return {**head, **self.fixed, **self.defaults, **values}


def build(kind: type[T], origin: str, **values: Any) -> T:
    """A dataclass with its types checked. Raises WeightsError that names the first bad value."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if first["loc"]:
            message = f"{'.'.join(map(str, first['loc']))}: {message}, got {first['input']!r}"
        raise WeightsError(f"{origin}: {message}") from None
