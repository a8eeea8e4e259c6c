"""Tables of the keys of training recipes, from the classes that read them."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from cogworks.config import text_encoder_recipe, training, training_data, transformer_recipe, vae_recipe

CLASSES: dict[str, type[BaseModel]] = {
    name: value
    for module in (training, training_data, text_encoder_recipe, transformer_recipe, vae_recipe)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, BaseModel)
}
_WORDS = {int: "whole number", float: "number", str: "text", bool: "true, false", Path: "path"}


def table(name: str) -> list[str]:
    """The keys of one section or recipe: those of its own, not those it has from `Run`."""
    model = CLASSES[name]
    said = _said(model)
    inherited = () if model is training.Run else tuple(training.Run.model_fields)
    lines = ["", "| key | value | default | what it does |", "| --- | --- | --- | --- |"]
    for key, field in model.model_fields.items():
        if key in inherited and issubclass(model, training.Run):
            continue
        default = "" if field.default is PydanticUndefined else _default(field.default)
        lines.append(f"| `{key}` | {_kind(field.annotation)} | {default} | {said.get(key, '')} |")
    return lines


def _said(model: type[BaseModel]) -> dict[str, str]:
    """What the docstring says of each key; one line may speak of several."""
    _, _, attributes = (inspect.getdoc(model) or "").partition("Attributes:\n")
    entries = re.findall(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    return {key: " ".join(words.split()) for keys, words in entries for key in keys.split(", ")}


def _kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_kind(each) for each in arguments if each is not NoneType))
    if origin is tuple:
        inner = dict.fromkeys(_kind(each) for each in arguments if each is not Ellipsis)
        return f"list of {' and '.join(inner)}"
    if hasattr(annotation, "__metadata__"):
        return _kind(arguments[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, tuple):
        return ", ".join(f"`{each}`" for each in value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
