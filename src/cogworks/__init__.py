"""Cogworks: generate, edit, train and serve video with the CogVideo family of models.

`import cogworks` loads no torch; the names below do when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cogworks.extensions.attach import attach
    from cogworks.pipelines.generate import Pipeline
    from cogworks.pipelines.load import load
    from cogworks.video import Video

__version__ = "0.1.0"
__all__ = ["Pipeline", "Video", "__version__", "attach", "load"]

_HOMES = {
    "Pipeline": "cogworks.pipelines.generate",
    "Video": "cogworks.video",
    "attach": "cogworks.extensions.attach",
    "load": "cogworks.pipelines.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cogworks' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
