"""Finding captioned clips: which kind of source a path is, shown by what is there.

In this order: a tar shard or a pattern of them; a manifest; a folder with a manifest called `metadata`, itself or in
its `train`; with `videos.txt` and `prompts.txt`; with tar shards; and any other folder, with captions beside the clips
or in SAT's `labels`. Nothing is decoded here.
"""

from __future__ import annotations

from pathlib import Path

from cogworks.data.clip import Clip, ClipFault, Clips, Span, printable
from cogworks.data.folders import LABELS, VIDEOS, list_folder
from cogworks.data.listing import CLIP_ENDINGS, Listing, ending, files_below
from cogworks.data.manifests import MANIFEST_ENDINGS, METADATA, is_split_by_id, list_by_id, list_manifest
from cogworks.data.prompt_lists import PROMPTS, list_prompts, prompt_file
from cogworks.data.prompt_lists import VIDEOS as VIDEO_LIST
from cogworks.data.shards import expand, is_pattern, list_shards
from cogworks.errors import DataError

__all__ = ["Clip", "ClipFault", "Clips", "Span", "find_clips"]

TRAIN = "train"
_LOOKED_FOR = (
    f"captions (x.txt) beside clips (x.mp4) or in {LABELS}/ beside {VIDEOS}/, {' or '.join(METADATA)}, "
    f"{VIDEO_LIST} with {PROMPTS[0]}, and tar shards"
)


def find_clips(source: str | Path) -> Clips:
    """List a source's clips and pair them with their captions. Nothing is decoded.

    Args:
        source: a folder, a manifest (.jsonl, .csv), a tar shard, or a pattern of shards as shards-{000..099}.tar.

    Returns:
        The clips, and what cannot be used: a clip without caption, a caption without clip, a file that is not there.
        No fault changes which caption another clip gets.

    Raises:
        DataError: there is no such source, it is of no kind that is known, or it holds nothing that can be used.
    """
    source = Path(source)
    clips = _list(source)
    if clips.items:
        return clips
    if not clips.faults:
        raise DataError(f"{printable(source)} holds no captioned clip; looked for {_LOOKED_FOR}")
    first, more = clips.faults[0], len(clips.faults) - 1
    others = f" (and {more} more like it)" if more else ""
    why = f"{first.name}: {first.why}" if first.name else first.why
    raise DataError(f"{printable(source)} holds nothing that can be used: {why}{others}; looked for {_LOOKED_FOR}")


def _list(source: Path) -> Clips:
    try:
        if source.is_dir():
            return _list_dir(source)
        if source.is_file():
            return _list_file(source)
        if is_pattern(source):
            return list_shards(expand(source))
    except OSError as error:
        raise DataError(f"cannot read {printable(source)}: {error.strerror or error}") from None
    raise DataError(f"no such folder, manifest or shard: {printable(source)}; check the path")


def _list_file(source: Path) -> Clips:
    kind = ending(source)
    if kind == ".tar":
        return list_shards([source])
    if kind in MANIFEST_ENDINGS:
        return list_manifest(source)
    if source.name in (VIDEO_LIST, *PROMPTS):
        return list_prompts(source.parent)
    raise DataError(
        f"{printable(source)} is no source of clips: name a folder, a manifest ({', '.join(MANIFEST_ENDINGS)}) or a "
        "tar shard (.tar, not compressed)"
    )


def _list_dir(folder: Path) -> Clips:
    for place in (folder, folder / TRAIN):  # what CogKit and the Hub call `test` is not to be trained on
        if is_split_by_id(place):
            return list_by_id(place)
        manifest = next((place / name for name in METADATA if (place / name).is_file()), None)
        if manifest is not None:
            return list_manifest(manifest)
    if (folder / VIDEO_LIST).is_file() or prompt_file(folder) is not None:
        return list_prompts(folder)
    unlisted: list[ClipFault] = []
    files = list(files_below(folder, unlisted))
    shards = [path for path in files if ending(path) == ".tar"]
    if not shards:
        found = _hinting(folder, files, list_folder(folder, files))
        return Clips(found.items, (*unlisted, *found.faults))
    if any(ending(path) in CLIP_ENDINGS for path in files):
        raise DataError(f"{printable(folder)} holds clips and tar shards; give the folder of one of them")
    found = list_shards(shards)
    return Clips(found.items, (*unlisted, *found.faults))


def _hinting(folder: Path, files: list[Path], clips: Clips) -> Clips:
    """Where no clip has a caption but a manifest lies there, say so first."""
    manifest = next((path for path in files if path.parent == folder and ending(path) in MANIFEST_ENDINGS), None)
    if clips.items or manifest is None:
        return clips
    listing = Listing()
    listing.fault(printable(manifest.name), "is a manifest under a name of its own; give its path instead")
    listing.faults.extend(clips.faults)
    return listing.done()
