"""`cogworks show`: how a video was made."""

from __future__ import annotations

from pathlib import Path

from cogworks.cli.terminal import AsJson, Switch, result


def show(file: Path, /, *, play: Switch = False, as_json: AsJson = False) -> None:
    """Print the recipe that a video carries, as YAML.

    Args:
        file: A video made by `cogworks generate`.
        play: Play it too, in a terminal that shows pictures (kitty, iTerm2, sixel).
        as_json: Print one JSON object instead of YAML.
    """
    import sys

    import yaml

    from cogworks.config.video_recipe import VideoRecipe
    from cogworks.video import read_metadata, read_video

    recipe = VideoRecipe.from_metadata(read_metadata(file), str(file))
    values = recipe.model_dump(mode="json")
    said = {name: value for name, value in values["request"].items() if value not in (None, [])}
    text = yaml.safe_dump({**values, "request": said}, sort_keys=False, allow_unicode=True).rstrip()
    result(text, values, as_json=as_json)
    if play:
        from cogworks.video.terminal import play as play_video

        play_video(read_video(file), sys.stderr)
