"""Pictures in a terminal: what is written is decoded again, as the terminal would."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
import time
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from cogworks.errors import RequestError
from cogworks.video import Video
from cogworks.video.sixel import encode_sixel
from cogworks.video.terminal import picture_protocol, play


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def noise(num_frames: int = 3, height: int = 20, width: int = 31, colors: int = 256) -> Video:
    levels = np.random.default_rng(0).integers(0, colors, (num_frames, height, width, 3))
    return Video((levels * (255 // (colors - 1))).astype(np.uint8), 1000)


# kitty


def kitty_commands(written: str) -> list[tuple[dict[str, str], bytes]]:
    """The graphics commands, chunks joined: keys and payload."""
    commands: list[tuple[dict[str, str], str]] = []
    for keys, payload in re.findall(r"\x1b_G([^;\x1b]*);?([^\x1b]*)\x1b\\", written):
        assert len(payload) <= 4096
        found = dict(pair.split("=") for pair in keys.split(","))
        if commands and commands[-1][0].get("m") == "1":
            assert set(found) <= {"m", "q"}
            commands[-1][0]["m"] = found["m"]
            commands[-1] = (commands[-1][0], commands[-1][1] + payload)
        else:
            commands.append((found, payload))
    return [(keys, base64.b64decode(payload)) for keys, payload in commands]


def test_kitty_gets_every_frame_bit_for_bit() -> None:
    video, stream = noise(height=60, width=91), Terminal()
    play(video, stream, "kitty")
    commands = kitty_commands(stream.getvalue())
    shown = [(keys, payload) for keys, payload in commands if keys["a"] == "T"]
    assert len(shown) == 3
    for (keys, payload), frame in zip(shown, video.frames, strict=True):
        assert (keys["f"], keys["o"], keys["m"], keys["C"], keys["q"]) == ("24", "z", "0", "1", "2")
        pixels = np.frombuffer(zlib.decompress(payload), np.uint8).reshape(int(keys["v"]), int(keys["s"]), 3)
        np.testing.assert_array_equal(pixels, frame)
    assert stream.getvalue().count("\x1b_G") > 3 * 2  # 60 x 91 noise needs several chunks: the parser above joined them


def test_kitty_deletes_each_frame_once_the_next_is_drawn() -> None:
    stream = Terminal()
    play(noise(5), stream, "kitty")
    order = [(keys["a"], keys["i"]) for keys, _ in kitty_commands(stream.getvalue())]
    drawn = [number for action, number in order if action == "T"]
    assert all(a != b for a, b in pairwise(drawn))
    assert order == [
        step
        for index, number in enumerate(drawn)
        for step in ([("T", number)] + [("d", drawn[index - 1])] * (index > 0))
    ]


# iTerm2


def test_iterm_gets_one_gif_that_repeats() -> None:
    frames = np.zeros((4, 16, 24, 3), np.uint8) + np.arange(0, 200, 50, dtype=np.uint8)[:, None, None, None]
    stream = Terminal()
    play(Video(frames, 8), stream, "iterm")
    found = re.fullmatch(r"\x1b\]1337;File=([^:]*):([A-Za-z0-9+/=]*)\a\n", stream.getvalue())
    assert found is not None
    data = base64.b64decode(found[2])
    assert dict(pair.split("=") for pair in found[1].split(";")) == {
        "inline": "1",
        "size": str(len(data)),
        "width": "24px",
        "height": "16px",
    }
    with Image.open(io.BytesIO(data)) as gif:
        assert gif.info["loop"] == 0
        pictures = [np.asarray(picture.convert("RGB")) for picture in ImageSequence.Iterator(gif)]
    np.testing.assert_array_equal(np.stack(pictures), frames)


# sixel


def decode_sixel(text: str) -> np.ndarray:
    """A terminal's side of the format: (H, W, 3), -1 where nothing was drawn."""
    header = re.match(r'\x1bP[\d;]*q"1;1;(\d+);(\d+)', text)
    assert header is not None
    assert text.endswith("\x1b\\")
    width, height = int(header[1]), int(header[2])
    pixels = np.full((-(-height // 6) * 6, width, 3), -1)
    palette: dict[int, list[int]] = {}
    color = x = top = 0
    for match in re.finditer(r"#(\d+)(?:;2;(\d+);(\d+);(\d+))?|!(\d+)([?-~])|([?-~])|([$-])", text[header.end() : -2]):
        number, *levels, count, repeated, single, control = match.groups()
        if number is not None:
            color = int(number)
            if levels[0] is not None:
                palette[color] = [round(int(level) * 255 / 100) for level in levels]
        elif control is not None:
            x, top = 0, top + 6 * (control == "-")
        else:
            bits, columns = ord(repeated or single) - 63, int(count or 1)
            assert x + columns <= width
            for row in range(6):
                if bits >> row & 1:
                    assert (pixels[top + row, x : x + columns] == -1).all(), "a pixel was drawn twice"
                    pixels[top + row, x : x + columns] = palette[color]
            x += columns
    assert (pixels[height:] == -1).all()
    return pixels[:height]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7), (6, 6), (7, 40), (24, 31)])
def test_sixels_draw_the_frame(height: int, width: int) -> None:
    frame = noise(1, height, width, colors=4).frames[0]  # 64 colors: all of them fit
    assert np.abs(decode_sixel(encode_sixel(frame)) - frame).max() <= 2  # levels go from 0 to 100


def test_sixels_use_256_colors_and_repeat_counts() -> None:
    ramp = np.zeros((12, 300, 3), np.uint8) + np.linspace(0, 255, 300).astype(np.uint8)[None, :, None]
    assert np.abs(decode_sixel(encode_sixel(ramp)) - ramp).max() <= 4
    flat = encode_sixel(np.full((6, 300, 3), 200, np.uint8))
    assert flat.endswith("#0!300~\x1b\\")


def test_sixels_are_redrawn_at_the_rate_in_one_place() -> None:
    video, stream = Video(noise(4).frames, 50), Terminal()
    started = time.monotonic()
    play(video, stream, "sixel")
    assert time.monotonic() - started >= 4 / 50
    written = stream.getvalue()
    assert written.startswith("\n\n\x1b[2A\x1b7\x1b[?25l")  # 20 pixels are two lines of 16
    assert written.count("\x1b8\x1bP") == 4
    assert written.endswith("\x1b8\x1b[2B\r\x1b[?25h")


def test_ctrl_c_leaves_the_terminal_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(Terminal):
        def flush(self) -> None:
            if "\x1b_G" in self.getvalue() and not self.getvalue().endswith("\x1b[?25h"):
                raise KeyboardInterrupt

    stream = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        play(noise(), stream, "kitty")
    assert stream.getvalue().endswith("\x1b\\\x1b8\x1b[2B\r\x1b[?25h")


def test_what_is_larger_than_the_window_is_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "12")
    stream = Terminal()
    play(Video(np.zeros((1, 480, 320, 3), np.uint8), 100), stream, "kitty")
    keys, _ = kitty_commands(stream.getvalue())[0]
    assert (keys["s"], keys["v"]) == ("106", "160")  # ten lines of 16 pixels


# Which terminal


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"KONSOLE_VERSION": "230401"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app", "TERM": "xterm-256color"}, "iterm"),
        ({"LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "dumb"}, None),
        ({"TERM": "screen-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/tmux-0/default,1,0"}, None),
        ({}, None),
    ],
)
def test_the_environment_tells(environment: dict[str, str], protocol: str | None) -> None:
    assert picture_protocol(Terminal(), environment) == protocol
    assert picture_protocol(io.StringIO(), environment) is None


def test_a_terminal_without_pictures_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    with pytest.raises(RequestError, match="shows no pictures"):
        play(noise(), stream)
    assert stream.getvalue() == ""


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    ("answer", "protocol"),
    [
        (b"\x1b[?62;4;6;22c", "sixel"),
        (b"\x1b[?62;1;6;22c", "None"),
        (b"\x1b[?4;6c", "None"),  # the first number is the class
        (b"typed\x1b[?65;4c", "sixel"),
        (b"", "None"),
    ],
)
def test_a_terminal_is_asked_for_sixels(answer: bytes, protocol: str, tmp_path: Path) -> None:
    import fcntl
    import pty
    import termios

    code = (
        "import sys, termios\n"
        "from cogworks.video.terminal import picture_protocol\n"
        "before = termios.tcgetattr(0)\n"
        "found = picture_protocol(sys.stdout, {'TERM': 'xterm'})\n"
        "assert termios.tcgetattr(0) == before\n"
        f"open({str(tmp_path / 'found')!r}, 'w').write(str(found))\n"
    )
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=slave,
        stdout=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    asked = os.read(master, 100)
    os.write(master, answer)
    assert process.wait(timeout=30) == 0
    os.close(master)
    assert asked == b"\x1b[c"
    assert (tmp_path / "found").read_text() == protocol
