"""One question to an OpenAI-compatible endpoint: POST base_url/chat/completions.

The key goes to the configured address and nowhere else: redirects are not followed. It is in no error.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from typing import Any, NoReturn
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from cogworks.config.settings import EndpointSettings
from cogworks.errors import RequestError

MAX_ANSWER_BYTES = 2**20
MAX_REASON_CHARACTERS = 200
_LOCAL = ("localhost", "127.0.0.1", "::1")


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """None makes of a redirect an HTTPError."""


def ask_endpoint(settings: EndpointSettings, system: str, user: str) -> str:
    """What the model answers to a system and a user message.

    Raises:
        RequestError: the endpoint cannot be reached, refuses, takes too long, or answers something else.
    """
    url = f"{settings.base_url}/chat/completions"
    key = _key(settings)
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    body = {"model": settings.model, "messages": messages, "stream": False}
    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "cogworks"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    request = Request(url, json.dumps(body).encode(), headers, method="POST")
    # A proxy for the internet knows nothing of this machine's own addresses.
    direct = [ProxyHandler({})] if urlsplit(url).hostname in _LOCAL else []
    deadline = time.monotonic() + settings.timeout_seconds
    try:
        with build_opener(_NoRedirects, *direct).open(request, timeout=settings.timeout_seconds) as response:
            content = _read(response, deadline)
    except HTTPError as error:
        with error:
            _refused(settings, url, error, key)
    except TimeoutError:
        _too_slow(settings, url)
    except URLError as error:
        if isinstance(error.reason, TimeoutError):
            _too_slow(settings, url)
        reason = getattr(error.reason, "strerror", None) or error.reason
        raise RequestError(f"{url} cannot be reached ({reason}): is it running, and is base_url right?") from None
    except (http.client.HTTPException, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(f"{url} broke off its answer ({reason}): try again") from None
    return _text(content, url)


def _key(settings: EndpointSettings) -> str | None:
    if settings.api_key_env is None:
        return None
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key:
        raise RequestError(
            f"the settings take the key of {settings.base_url} from the environment variable {settings.api_key_env}, "
            "which is empty or not set: set it, or take api_key_env out of the settings"
        )
    if not (key.isascii() and key.isprintable()):
        raise RequestError(f"the environment variable {settings.api_key_env} holds characters that no key has")
    return key


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The body, in pieces: the timeout of a socket is for each piece, ours is for all of them."""
    content = b""
    while piece := response.read1(2**16):
        content += piece
        if time.monotonic() > deadline:
            raise TimeoutError
        if len(content) > MAX_ANSWER_BYTES:
            raise RequestError(
                f"the answer of {response.url} is longer than {MAX_ANSWER_BYTES} bytes: try another model"
            )
    if response.length:  # of what the headers promised
        raise http.client.IncompleteRead(content, response.length)
    return content


def _too_slow(settings: EndpointSettings, url: str) -> NoReturn:
    raise RequestError(
        f"{url} did not answer within {settings.timeout_seconds:g} seconds: try again, "
        "or raise timeout_seconds in the settings"
    ) from None


def _refused(settings: EndpointSettings, url: str, error: HTTPError, key: str | None) -> NoReturn:
    """Raise what an answer with an error status means."""
    if 300 <= error.code < 400:
        raise RequestError(
            f"{url} sends on to {error.headers.get('Location') or 'nowhere'}, and a key is not sent on: "
            "write the address of the endpoint itself as base_url"
        ) from None
    if error.code in (401, 403):
        # Their message may quote the key.
        fix = f"check {settings.api_key_env}" if key is not None else "name its variable as api_key_env in the settings"
        what = "the key" if key is not None else "a request without a key"
        raise RequestError(f"{url} refused {what} (status {error.code}): {fix}") from None
    reason = _reason(error, key)
    raise RequestError(f"{url} answered with status {error.code}: {reason}") from None


def _reason(error: HTTPError, key: str | None) -> str:
    """What an endpoint says of its refusal, in one line."""
    try:
        content = error.read(2**16).decode("utf-8", errors="replace")
    except (http.client.HTTPException, OSError):
        content = ""
    try:
        values = json.loads(content)
        told = values["error"]["message"] if isinstance(values["error"], dict) else values["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        told = content
    line = " ".join(str(told).split()) or error.reason or "no reason given"
    line = line.replace(key, "(the key)") if key else line
    return line if len(line) <= MAX_REASON_CHARACTERS else line[: MAX_REASON_CHARACTERS - 3] + "..."


def _text(content: bytes, url: str) -> str:
    """The message in a chat completion."""
    try:
        text = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        text = 0
    if text is None:  # nothing but a call of a tool, or a refusal
        return ""
    if not isinstance(text, str):
        shown = " ".join(content[:80].decode("utf-8", errors="replace").split())
        raise RequestError(
            f"{url} did not answer as chat completions do, but with {shown!r}: "
            "is base_url that of an OpenAI-compatible API?"
        )
    return text
