"""The user's settings: one YAML file, in which an unknown key is an error that names the nearest known one.

The file is `places.settings_file()`; without one, everything has its default.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from cogworks.config.places import settings_file
from cogworks.config.validation import explain
from cogworks.errors import RequestError

Seconds = Annotated[float, Field(gt=0, le=3600)]


class EndpointSettings(BaseModel):
    """A language model behind an OpenAI-compatible address.

    Attributes:
        base_url: what comes before /chat/completions, for example http://localhost:11434/v1.
        model: what the endpoint calls the model.
        api_key_env: name of the environment variable that holds the key; None sends no key.
        timeout_seconds: how long the answer may take.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    base_url: str
    model: str = Field(min_length=1)
    api_key_env: str | None = None
    timeout_seconds: Seconds = 60.0

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, base_url: str) -> str:
        try:
            url = urlsplit(base_url)
            port_is_legal = url.port is None or url.port > 0
        except ValueError:  # a port that is no number or too large, or half of an IPv6 address
            raise ValueError("base_url is not an address; it looks like http://localhost:11434/v1") from None
        # The address is shown in errors: it must hold no secret, and so it is not shown here either.
        if url.username is not None or url.password is not None:
            raise ValueError("base_url holds a name or a password: put the key into the variable of api_key_env")
        plain = base_url.isascii() and base_url.isprintable() and " " not in base_url
        if not (plain and port_is_legal and url.hostname and url.scheme in ("http", "https")) or url.query:
            raise ValueError(f"base_url looks like http://localhost:11434/v1, got {base_url!r}")
        if url.path.rstrip("/").endswith("/chat/completions"):
            raise ValueError("base_url ends before /chat/completions, which is added to it")
        return base_url.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z_]\w*", name, flags=re.ASCII):
            # What is there instead may be the key: it is not repeated.
            raise ValueError("api_key_env is the name of an environment variable, as OPENAI_API_KEY, not the key")
        return name


class CommandSettings(BaseModel):
    """A local program that reads the instructions and the prompt on stdin and answers on stdout.

    Attributes:
        command: the program and its arguments; no shell reads them.
        timeout_seconds: how long the answer may take.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: tuple[Annotated[str, Field(strict=True)], ...] = Field(min_length=1)
    timeout_seconds: Seconds = 120.0

    @field_validator("command")
    @classmethod
    def _names_a_program(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        if not command[0].strip() or any("\0" in word for word in command):
            raise ValueError("command begins with the name of a program, as [ollama, run, llama3.2]")
        return command


def _endpoint_or_command(values: Any) -> Any:
    """Errors then name the keys of the one that was meant."""
    if values is None or isinstance(values, EndpointSettings | CommandSettings):
        return values
    if not isinstance(values, dict):
        raise ValueError("enhance holds either base_url and model, or command")
    if "command" in values and "base_url" in values:
        raise ValueError("enhance: give base_url or command, not both")
    kind = CommandSettings if "command" in values else EndpointSettings
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        words = explain(error, kind.model_fields)
        if all(each["type"] == "missing" for each in error.errors()):
            words = f"{error.errors()[0]['loc'][0]} is missing; it holds either base_url and model, or command"
        raise ValueError(f"enhance: {words}") from None


Enhancer = EndpointSettings | CommandSettings
"""Who rewrites prompts."""


class Settings(BaseModel):
    """All settings.

    Attributes:
        enhance: who rewrites short prompts (`cogworks.enhance.prompt`); None is nobody.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enhance: Annotated[Enhancer | None, BeforeValidator(_endpoint_or_command)] = None


def load_settings(path: Path | None = None) -> Settings:
    """The settings in `path`, by default in the user's file; the defaults where there is no such file.

    Raises:
        RequestError: the file cannot be read, is not YAML, or says something that is no setting.
    """
    path = path or settings_file()
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise RequestError(f"{path} is not UTF-8 text: write the settings again") from None
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
    ) as error:  # PyYAML lets an impossible date through as ValueError
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        raise RequestError(f"{path}{where}: not YAML ({getattr(error, 'problem', None) or error})") from None
    if values is None:
        return Settings()
    if not isinstance(values, dict):
        raise RequestError(f"{path} must hold keys and values, for example `enhance:` and what is indented under it")
    try:
        return Settings.model_validate({str(key): value for key, value in values.items()})
    except ValidationError as error:
        raise RequestError(f"{path}: {explain(error, Settings.model_fields)}") from None
