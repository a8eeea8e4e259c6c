"""Training recipes: typed YAML, where an unknown key is an error that names the nearest known one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from cogworks.config.text_encoder_recipe import TextEncoderRecipe
from cogworks.config.transformer_recipe import TransformerRecipe
from cogworks.config.vae_recipe import VAERecipe
from cogworks.config.validation import explain
from cogworks.errors import RecipeError

Recipe = TextEncoderRecipe | VAERecipe | TransformerRecipe

_KINDS: dict[str, type[Recipe]] = {
    "text_encoder": TextEncoderRecipe,
    "vae": VAERecipe,
    "transformer": TransformerRecipe,
}


def load_recipe(path: Path, overrides: list[str]) -> Recipe:
    """Read a recipe and apply `key=value` overrides (`data.size=96` reaches nested keys).

    Raises:
        RecipeError: unreadable file, unknown key (with the nearest known one) or a value out of range.
    """
    if not path.is_file():  # a device would be read without end
        raise RecipeError(f"no recipe at {path}; the bundled ones are in the recipes folder")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is not text in UTF-8, and a recipe is") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # an impossible date is a ValueError
        raise RecipeError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must hold a mapping of keys to values, got {type(values).__name__}")
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise RecipeError(f"an override must look like key=value, got {override!r}")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            raise RecipeError(f"the value of the override {override!r} is not valid YAML") from None
        _set(values, key.split("."), parsed)
    return parse_recipe(values, str(path))


def parse_recipe(values: dict[str, Any], name: str) -> Recipe:
    """Validate recipe values; `name` is what error messages call them."""
    kind = _KINDS.get(str(values.get("kind")))
    if kind is None:
        raise RecipeError(f"{name}: kind must be one of {', '.join(_KINDS)}, got {values.get('kind')!r}")
    data = values.get("data")
    if isinstance(data, dict) and "kind" not in data:
        values = {**values, "data": {"kind": "shapes", **data}}
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{name}: {explain(error, _known_keys(kind, error), ('data',))}") from None


def _known_keys(kind: type[BaseModel], error: ValidationError) -> list[str]:
    """The keys that are known at the place of the first unknown one."""
    unknown = [each for each in error.errors(include_url=False) if each["type"] == "extra_forbidden"]
    models = [kind]
    for part in unknown[0]["loc"][:-1] if unknown else ():
        inner = [model for each in models if part in each.model_fields for model in _models_of(each, str(part))]
        # A part that is no field is the tag of a union: it names one of the models.
        models = inner or [model for model in models if _tag(model) == part]
    return list(dict.fromkeys(name for model in models for name in model.model_fields))


def _models_of(model: type[BaseModel], field: str) -> list[type[BaseModel]]:
    """The models that the annotation of a field names."""
    pending, found = [model.model_fields[field].annotation], []
    while pending:
        annotation = pending.pop()
        pending.extend(get_args(annotation))
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.append(annotation)
    return found


def _tag(model: type[BaseModel]) -> str | None:
    """What `kind` is in this model."""
    field = model.model_fields.get("kind")
    return None if field is None else next(iter(get_args(field.annotation)), None)


def _set(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise RecipeError(f"{'.'.join(keys)} does not exist: {key} is a plain value")
    values[keys[-1]] = value
