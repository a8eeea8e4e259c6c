"""Video in memory and in files: uint8 frames with a frame rate. Imports no torch, and no decoder before it is used.

Inside, imports point one way: frames, faults < folder, source < sinks < write < video; pictures < stream
< read, chosen.
"""

from cogworks.video.frames import (
    contact_sheet,
    hash_frames,
    resize_frames,
    to_frames,
    to_pixels,
    upscale_frames,
)
from cogworks.video.read import read_image, read_metadata, read_video
from cogworks.video.video import Video
from cogworks.video.write import StreamingWriter, check_output, write_video

__all__ = [
    "StreamingWriter",
    "Video",
    "check_output",
    "contact_sheet",
    "hash_frames",
    "read_image",
    "read_metadata",
    "read_video",
    "resize_frames",
    "to_frames",
    "to_pixels",
    "upscale_frames",
    "write_video",
]
