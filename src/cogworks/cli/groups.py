"""Headings of the verbs in `cogworks --help`, in order, and verbs that have verbs of their own."""

from __future__ import annotations

from cyclopts import App, Group

VIDEOS = Group("Make videos", sort_key=1)
MODELS = Group("Models", sort_key=2)
THIS = Group("This program", sort_key=3)


def verbs(name: str, *, group: Group, help: str, example: str) -> App:
    """A verb with verbs of its own, which are its commands.

    Args:
        help: one sentence.
        example: a command line, shown below the help.
    """
    return App(
        name=name,
        group=group,
        help=help,
        help_epilogue=f"Example:\n\n  {example}",
        suppress_keyboard_interrupt=False,  # `main` says how to go on
    )
