"""Cogworks: generate, edit, train and serve video with the CogVideo family of models."""

__version__ = "0.1.0"
