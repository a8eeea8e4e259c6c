"""How help is laid out: paragraphs flow, `code` stands out; without markdown, which takes 0.1 s to load."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions


class FlowingHelp:
    """The formatter of cyclopts, for texts that were wrapped in the source."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        from cyclopts.help import DefaultFormatter

        for entry in panel.entries:
            _flow(entry.description)
        DefaultFormatter()(console, options, panel)

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        from cyclopts.help import DefaultFormatter

        DefaultFormatter().render_usage(console, options, usage)

    def render_description(self, console: Console, options: ConsoleOptions, description: Any) -> None:
        _flow(description)
        console.print(description)


def _flow(shown: Any) -> None:
    from rich.text import Text

    text = getattr(shown, "primary_renderable", None)
    if isinstance(text, Text):
        flowing = Text(re.sub(r"(?<!\n)\n(?!\n)", " ", text.plain), end=text.end)
        flowing.highlight_regex(r"`[^`]+`", "bold")
        shown.primary_renderable = flowing
