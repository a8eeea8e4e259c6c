"""Playing a video in a terminal that shows pictures.

- kitty graphics (kitty, Ghostty, Konsole): every frame is sent as compressed RGB and takes the place of the one before.
  Redrawing is chosen over the protocol's own animations, which only kitty itself knows.
- iTerm2 inline images (iTerm2, WezTerm, mintty): one animated gif, which the terminal repeats.
- sixel (xterm, foot, Windows Terminal, tmux, ...): redrawn, in 256 colors a frame.

Sources: sw.kovidgoyal.net/kitty/graphics-protocol; iterm2.com/documentation-images.html; `cogworks.video.sixel`.
"""

from __future__ import annotations

import base64
import contextlib
import io
import math
import os
import re
import secrets
import shutil
import struct
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TextIO

import numpy as np
from numpy.typing import NDArray

from cogworks.errors import RequestError
from cogworks.video.frames import resize_frames
from cogworks.video.sinks import save_animation
from cogworks.video.sixel import encode_sixel
from cogworks.video.video import Video

PictureProtocol = Literal["kitty", "iterm", "sixel"]

ANSWER_SECONDS = 0.5  # how long a terminal may take to say what it can: every one answers, some across an ocean

_KITTY_CHUNK = 4096  # characters of base64 in one sequence, the protocol's limit
_KITTY_TERMS = ("xterm-kitty", "xterm-ghostty")
_ITERM_PROGRAMS = ("iTerm.app", "WezTerm", "mintty")
_SIXEL_ATTRIBUTE = b"4"  # in a terminal's answer to DA1
_MULTIPLEXERS = ("screen", "tmux")
_ROWS_KEPT = 2  # of the window, for the lines around the picture
_SAVE, _RESTORE, _HIDE, _SHOW, _END = "\x1b7", "\x1b8", "\x1b[?25l", "\x1b[?25h", "\x1b\\"


def picture_protocol(stream: TextIO, environment: Mapping[str, str] | None = None) -> PictureProtocol | None:
    """How the terminal behind `stream` shows pictures; None if it does not, or `stream` is no terminal.

    It is told by the environment (`os.environ` if None), and else asked, where a person sits at it: standard input is
    a terminal, too, and this process is in its foreground.
    """
    environment = os.environ if environment is None else environment
    if not stream.isatty():
        return None
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    # A multiplexer hands the variables of the terminal around it on, but not its pictures.
    if "TMUX" not in environment and not term.startswith(_MULTIPLEXERS):
        if program in _ITERM_PROGRAMS or environment.get("LC_TERMINAL") == "iTerm2":
            return "iterm"
        if term in _KITTY_TERMS or program == "ghostty" or {"KITTY_WINDOW_ID", "KONSOLE_VERSION"} & set(environment):
            return "kitty"
    return "sixel" if term != "dumb" and _answers_sixel(stream) else None


def play(video: Video, stream: TextIO, protocol: PictureProtocol | None = None) -> None:
    """Show `video` once, at its rate, where the cursor is, shrunk to the window; the last frame stays.

    Args:
        stream: the terminal, as `sys.stdout`.
        protocol: how it shows pictures; found out if None.

    Raises:
        RequestError: the terminal shows no pictures.
    """
    protocol = protocol or picture_protocol(stream)
    if protocol is None:
        raise RequestError(
            "this terminal shows no pictures: use kitty, Ghostty, WezTerm, iTerm2 or one with sixels, or open the file"
        )
    window = _Window.behind(stream)
    frames = window.fitted(video.frames)
    if protocol == "iterm":
        stream.write(_iterm(frames, video.fps) + "\n")
        stream.flush()
        return
    rows = math.ceil(frames.shape[1] / window.cell_height)
    _redraw(stream, _kitty(frames) if protocol == "kitty" else map(encode_sixel, frames), video.fps, rows)


@dataclass(frozen=True)
class _Window:
    """A terminal's size in characters, and a character's in pixels: 8x16 where the terminal does not tell."""

    columns: int
    rows: int
    cell_width: int = 8
    cell_height: int = 16

    @classmethod
    def behind(cls, stream: TextIO) -> _Window:
        with contextlib.suppress(ImportError, OSError, ValueError):  # Windows; no terminal; no file at all
            import fcntl
            import termios

            answer = fcntl.ioctl(stream.fileno(), termios.TIOCGWINSZ, bytes(8))
            rows, columns, width, height = struct.unpack("4H", answer)
            if rows and columns:
                known = width >= columns and height >= rows
                return cls(columns, rows, width // columns, height // rows) if known else cls(columns, rows)
        return cls(*shutil.get_terminal_size())

    def fitted(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = frames.shape[1:3]
        most = self.columns * self.cell_width, max(1, self.rows - _ROWS_KEPT) * self.cell_height
        shrink = min(1.0, most[0] / width, most[1] / height)
        return resize_frames(frames, max(1, int(height * shrink)), max(1, int(width * shrink)), "stretch")


def _redraw(stream: TextIO, pictures: Iterable[str], fps: float, rows: int) -> None:
    """Make room for `rows` below the cursor, draw one picture after the other there, leave the cursor below."""
    stream.write("\n" * rows + f"\x1b[{rows}A" + _SAVE + _HIDE)
    try:
        due = time.monotonic()
        for picture in pictures:
            time.sleep(max(0.0, due - time.monotonic()))
            stream.write(_RESTORE + picture)
            stream.flush()
            due += 1 / fps
        time.sleep(max(0.0, due - time.monotonic()))
    finally:  # _END closes a picture that Ctrl-C cut, and does nothing after a whole one
        stream.write(_END + _RESTORE + f"\x1b[{rows}B\r" + _SHOW)
        stream.flush()


def _kitty(frames: NDArray[np.uint8]) -> Iterator[str]:
    """Two image numbers in turn: a frame is drawn before the one under it is deleted, so nothing flickers."""
    height, width = frames.shape[1:3]
    number = secrets.randbelow(2**31) + 1  # other programs' pictures are not to be hit
    older = number + 1
    for index, frame in enumerate(frames):
        payload = base64.b64encode(zlib.compress(frame.tobytes(), 1)).decode()
        chunks = [payload[start : start + _KITTY_CHUNK] for start in range(0, len(payload), _KITTY_CHUNK)]
        # a=T send and show, f=24 RGB, o=z deflated, C=1 leave the cursor, q=2 answer nothing, m=1 more follows
        keys = f"a=T,f=24,o=z,s={width},v={height},i={number},p=1,C=1,q=2,"
        text = []
        for position, chunk in enumerate(chunks):
            more = int(position + 1 < len(chunks))
            text.append(f"\x1b_G{keys if position == 0 else 'q=2,'}m={more};{chunk}{_END}")
        if index:
            text.append(f"\x1b_Ga=d,d=I,i={older},q=2{_END}")
        yield "".join(text)
        number, older = older, number


def _iterm(frames: NDArray[np.uint8], fps: float) -> str:
    height, width = frames.shape[1:3]
    gif = io.BytesIO()
    save_animation(gif, frames, fps, ".gif")
    data = gif.getvalue()
    keys = f"inline=1;size={len(data)};width={width}px;height={height}px"
    return f"\x1b]1337;File={keys}:{base64.b64encode(data).decode()}\a"


def _answers_sixel(stream: TextIO) -> bool:
    """Ask for the terminal's attributes (DA1, `ESC [ c`) and look for sixel graphics among them."""
    try:
        import select
        import termios
        import tty

        source = sys.stdin.fileno()
        if not sys.stdin.isatty() or os.tcgetpgrp(source) != os.getpgrp():  # the system stops who touches it behind
            return False
        before = termios.tcgetattr(source)
    except (ImportError, OSError, ValueError, AttributeError):  # Windows; standard input closed or no file
        return False
    answer = b""
    deadline = time.monotonic() + ANSWER_SECONDS
    try:
        tty.setcbreak(source, termios.TCSANOW)
        stream.write("\x1b[c")
        stream.flush()
        while not (found := re.search(rb"\x1b\[\?([\d;]*)c", answer)):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([source], [], [], left)[0] or not (more := os.read(source, 64)):
                return False
            answer += more
    finally:
        termios.tcsetattr(source, termios.TCSAFLUSH, before)  # and forget an answer that comes too late
    return _SIXEL_ATTRIBUTE in found[1].split(b";")[1:]  # the first is the class of terminal
