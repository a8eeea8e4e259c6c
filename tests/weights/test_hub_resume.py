"""A download that breaks off goes on at the byte where it broke off, with a hub that the test serves and cuts."""

from __future__ import annotations

import hashlib
import http.server
import json
import logging
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cogworks.errors import WeightsError
from cogworks.weights import hub_resume
from cogworks.weights.hub import HubModel

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = random.Random(0).randbytes(10_500)
FILES = {
    "model_index.json": b'{"_class_name": "CogVideoXPipeline"}',
    "transformer/config.json": b"{}",
    "transformer/diffusion_pytorch_model.safetensors": WEIGHTS,
    "transformer/diffusion_pytorch_model.fp16.safetensors": WEIGHTS[:5000],
    "vae/diffusion_pytorch_model.safetensors": b"small",
}
PIECE = 1000


class Hub(http.server.ThreadingHTTPServer):
    """As much of the hub's protocol as a snapshot and a read of bytes need.

    Attributes:
        ranges: first bytes that were asked for of large files, in order.
        cut_at: from this byte on the connection is closed in the middle of an answer.
        content: of the large file.
        whole: file names that were asked for without a range.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[int] = []
        self.whole: list[str] = []
        self.cut_at: int | None = None
        self.content = WEIGHTS


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/org/model"):
            siblings = [
                {
                    "rfilename": name,
                    "size": len(data),
                    "lfs": {"sha256": sha256(data), "size": len(data), "pointerSize": 1},
                }
                for name, data in FILES.items()
            ]
            tree = [{"type": "file", "path": name, "size": len(data), "oid": "1"} for name, data in FILES.items()]
            body = tree if "/tree/" in path else {"id": "org/model", "sha": COMMIT, "siblings": siblings}
            self.send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})
            return
        name = path.partition(f"/resolve/{COMMIT}/")[2]
        if name not in FILES:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = FILES[name]
        headers = {"ETag": f'"{sha256(data)}"', "X-Repo-Commit": COMMIT}
        asked = self.headers.get("Range")
        if asked is None:
            if self.command == "GET":
                self.server.whole.append(name)
            self.send(200, data, headers)
            return
        first, last = map(int, asked.removeprefix("bytes=").split("-"))
        self.server.ranges.append(first)
        if self.server.cut_at is not None and first >= self.server.cut_at:
            self.send(206, self.server.content[first : first + 10], headers, length=PIECE)
            self.close_connection = True
            return
        self.send(206, self.server.content[first : last + 1], headers)

    do_HEAD = do_GET  # noqa: N815

    def send(self, status: int, data: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length or len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_args: object) -> None: ...


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        for name, value in {
            "ENDPOINT": endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setattr(
            "huggingface_hub.utils._http.time.sleep", lambda seconds: None
        )  # it waits before it retries
        monkeypatch.setattr(hub_resume, "LARGE", PIECE)
        monkeypatch.setattr(hub_resume, "PIECE", PIECE)
        yield server
        server.shutdown()


def fetched() -> bytes:
    return (HubModel("org/model").fetch() / "transformer/diffusion_pytorch_model.safetensors").read_bytes()


def incomplete(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("hub/*/blobs/*.incomplete"))


def test_a_cut_download_goes_on_where_it_was_cut(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cogworks")
    hub.cut_at = 7000
    with pytest.raises(WeightsError, match=r"could not be fetched from the hub: .*; what has arrived is kept"):
        HubModel("org/model").fetch()
    (part,) = incomplete(tmp_path)
    assert part.read_bytes() == WEIGHTS[:7000]
    hub.cut_at, hub.ranges = None, []
    assert fetched() == WEIGHTS
    assert hub.ranges == [7000, 8000, 9000, 10000]
    assert "going on with 0.0 MB of large files" in caplog.text
    assert incomplete(tmp_path) == []
    # Of the large files, those alone that a load reads, and not a second time by the snapshot.
    assert not any("diffusion_pytorch_model" in name and "transformer" in name for name in hub.whole)
    assert "vae/diffusion_pytorch_model.safetensors" in hub.whole


def test_ctrl_c_costs_a_piece(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(hub_resume.Event):
        """The flag that ends what runs, with Ctrl-C in the middle."""

        asked = 0

        def is_set(self) -> bool:
            self.asked += 1
            if self.asked == 4:
                raise KeyboardInterrupt
            return super().is_set()

    monkeypatch.setattr(hub_resume, "Event", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        HubModel("org/model").fetch()
    (part,) = incomplete(tmp_path)
    assert part.stat().st_size == 3 * PIECE
    monkeypatch.undo()


def test_what_arrived_wrong_is_not_kept(hub: Hub, tmp_path: Path) -> None:
    hub.content = b"\0" * len(WEIGHTS)
    with pytest.raises(WeightsError, match="did not arrive as the hub has it, and was deleted"):
        HubModel("org/model").fetch()
    assert incomplete(tmp_path) == []
    hub.content = WEIGHTS
    assert fetched() == WEIGHTS


def test_what_is_here_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    assert fetched() == WEIGHTS
    hub.ranges.clear()
    assert fetched() == WEIGHTS
    assert hub.ranges == []


def test_a_file_that_another_process_finished(hub: Hub, tmp_path: Path) -> None:
    """All bytes are there, but the name: nothing is asked for."""
    blobs = HubModel("org/model").folder / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{sha256(WEIGHTS)}.incomplete").write_bytes(WEIGHTS)
    assert fetched() == WEIGHTS
    assert hub.ranges == []


def test_without_symbolic_links_all_is_left_to_the_library(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.are_symlinks_supported", lambda folder=None: False)
    assert fetched() == WEIGHTS
    assert hub.ranges == []
    assert "transformer/diffusion_pytorch_model.safetensors" in hub.whole
