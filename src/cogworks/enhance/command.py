"""One question to a local program: the question on its stdin, the answer on its stdout."""

from __future__ import annotations

import subprocess

from cogworks.config.settings import CommandSettings
from cogworks.errors import RequestError

MAX_REASON_CHARACTERS = 200


def ask_command(settings: CommandSettings, question: str) -> str:
    """What the program answers. It runs without a shell and with this process's environment.

    Raises:
        RequestError: the program is missing, fails, or takes too long.
    """
    program = settings.command[0]
    try:
        ran = subprocess.run(
            settings.command,
            input=question.encode("utf-8", errors="replace"),
            capture_output=True,
            timeout=settings.timeout_seconds,
            check=False,
        )
    except FileNotFoundError:
        raise RequestError(
            f"there is no program {program!r} to enhance prompts: install it, or correct `command` in the settings"
        ) from None
    except subprocess.TimeoutExpired:
        raise RequestError(
            f"{program} did not answer within {settings.timeout_seconds:g} seconds: try again, "
            "or raise timeout_seconds in the settings"
        ) from None
    except OSError as error:
        raise RequestError(
            f"{program} cannot be run ({error.strerror or error}): correct `command` in the settings"
        ) from None
    if ran.returncode != 0:
        lines = ran.stderr.decode("utf-8", errors="replace").split("\n")
        told = next((line.strip() for line in reversed(lines) if line.strip()), "and said nothing")
        raise RequestError(
            f"{program} ended with status {ran.returncode} instead of an answer: {told[:MAX_REASON_CHARACTERS]}"
        )
    return ran.stdout.decode("utf-8", errors="replace")
