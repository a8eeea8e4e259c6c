"""Video in memory and in files: uint8 frames with a frame rate. Imports no torch."""

from cogworks.video.frames import contact_sheet, resize_frames, to_frames, to_pixels
from cogworks.video.read import read_image, read_metadata, read_video
from cogworks.video.video import Video
from cogworks.video.write import StreamingWriter, write_video

__all__ = [
    "StreamingWriter",
    "Video",
    "contact_sheet",
    "read_image",
    "read_metadata",
    "read_video",
    "resize_frames",
    "to_frames",
    "to_pixels",
    "write_video",
]
