"""Headings of the verbs in `cogworks --help`, in order."""

from __future__ import annotations

from cyclopts import Group

VIDEOS = Group("Make videos", sort_key=1)
MODELS = Group("Models", sort_key=2)
THIS = Group("This program", sort_key=3)
