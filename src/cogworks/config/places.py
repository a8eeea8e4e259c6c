"""Where Cogworks keeps what is its own on a machine: small caches, and the user's settings."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """The folder of what may be deleted at any time: $COGWORKS_CACHE, or `cogworks` in the system's cache folder.

    It may not exist yet.
    """
    return Path(os.environ.get("COGWORKS_CACHE") or platformdirs.user_cache_dir("cogworks", appauthor=False))


def settings_file() -> Path:
    """The user's settings, YAML: $COGWORKS_SETTINGS, or `cogworks/settings.yaml` in the system's settings folder.

    It may not exist.
    """
    chosen = os.environ.get("COGWORKS_SETTINGS")
    folder = platformdirs.user_config_dir("cogworks", appauthor=False)
    return Path(chosen) if chosen else Path(folder, "settings.yaml")
