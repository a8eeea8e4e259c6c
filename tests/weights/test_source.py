"""What a user types as a model: names, folders and a hub that is served by the test itself."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cogworks.errors import WeightsError
from cogworks.weights import source
from cogworks.weights.source import open_folder, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_FILES = {
    "model_index.json": b"{}",
    "README.md": b"not needed",
    "transformer/config.json": b"{}",
    "transformer/diffusion_pytorch_model.safetensors": b"full",
    "transformer/diffusion_pytorch_model.fp16.safetensors": b"half",
    "transformer/diffusion_pytorch_model.bin": b"pickle",
    "text_encoder/model-00001-of-00002.safetensors": b"a",
    "text_encoder/model.fp16-00001-of-00002.safetensors": b"b",
    "text_encoder/model.safetensors.index.json": b"{}",
    "text_encoder/model.safetensors.index.fp16.json": b"{}",
    "tokenizer/spiece.model": b"s",
    "scheduler/scheduler_config.json": b"{}",
    "samples/video.mp4": b"large",
}


def _diffusers_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    return folder


def test_a_folder_of_diffusers(tmp_path: Path) -> None:
    folder = _diffusers_folder(tmp_path / "m")
    found = resolve(folder, file_variant="fp16")
    assert (found.path, found.layout, found.file_variant) == (folder, "diffusers", "fp16")
    assert resolve(str(folder)).path == folder


@pytest.mark.parametrize("given", ["", "transformer", "transformer/7"])
def test_a_folder_of_sat_from_any_of_its_levels(tmp_path: Path, given: str) -> None:
    from cogworks.weights.sat_files import find_sat

    states = tmp_path / "transformer" / "7" / "mp_rank_00_model_states.pt"
    states.parent.mkdir(parents=True)
    states.touch()
    (tmp_path / "transformer" / "latest").write_text("7\n")
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "3d-vae.pt").touch()
    (tmp_path / "t5-v1_1-xxl").mkdir()
    (tmp_path / "t5-v1_1-xxl" / "config.json").touch()
    assert open_folder(tmp_path / given).layout == "sat"
    files = find_sat(tmp_path / given)
    assert (files.root, files.transformer) == (tmp_path, states)
    assert files.vae == tmp_path / "vae" / "3d-vae.pt"
    assert files.text_encoder == tmp_path / "t5-v1_1-xxl"


def test_a_sat_folder_that_is_incomplete(tmp_path: Path) -> None:
    from cogworks.weights.sat_files import find_sat

    (tmp_path / "latest").write_text("12")
    with pytest.raises(WeightsError, match=r"names the iteration '12', but .*12.* does not exist"):
        find_sat(tmp_path)
    (tmp_path / "12").mkdir()
    for rank in ("00", "01"):
        (tmp_path / "12" / f"mp_rank_{rank}_model_states.pt").touch()
    with pytest.raises(WeightsError, match="in parallel parts"):
        find_sat(tmp_path)


def test_a_bundled_name_wins_over_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(source, "ASSETS", tmp_path / "assets")
    _diffusers_folder(tmp_path / "tiny")
    with pytest.raises(WeightsError, match="bundled model tiny is missing from this installation"):
        resolve("tiny")
    bundled = _diffusers_folder(tmp_path / "assets" / "tiny")
    assert resolve("tiny").path == bundled
    assert resolve("./tiny").path.resolve() == (tmp_path / "tiny").resolve()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("tinny", "no model or folder called tinny; did you mean tiny"),
        ("CogVideoX-5B", "did you mean cogvideox-5b"),
        ("zzzz", "the names are cogvideox-2b, "),
        ("./nowhere", "there is no folder ./nowhere"),
        ("a/b/c", "there is no folder a/b/c"),
        ("/nowhere", "there is no folder /nowhere"),
    ],
)
def test_what_is_not_there(typed: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=message):
        resolve(typed)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").touch()
    for path in (tmp_path, tmp_path / "weights.bin"):
        with pytest.raises(WeightsError, match=r"is not a model: a diffusers folder has model_index.json"):
            resolve(path)


def test_a_missing_path_object_never_goes_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", forbidden)
    with pytest.raises(WeightsError, match="there is no folder org/model"):
        resolve(Path("org/model"))
    resolve(_diffusers_folder(tmp_path / "m"))
    with pytest.raises(AssertionError):  # negative control
        resolve("org/model")


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's protocol as a snapshot needs: one public model, one gated, all others unknown."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/org/gated/"):
            self._refuse(403, "GatedRepo")
        elif path == "/api/models/org/model/revision/main":
            names = [{"rfilename": name} for name in HUB_FILES]
            self._json({"id": "org/model", "sha": COMMIT, "siblings": names})
        elif path.startswith("/api/models/org/model/revision/"):
            self._refuse(404, "RevisionNotFound")
        elif path == f"/api/models/org/model/tree/{COMMIT}":
            self._json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in HUB_FILES.items()
                ]
            )
        elif path.startswith(f"/org/model/resolve/{COMMIT}/"):
            data = HUB_FILES[path.removeprefix(f"/org/model/resolve/{COMMIT}/")]
            self._send(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT})
        else:
            self._refuse(404, "RepoNotFound")

    do_HEAD = do_GET  # noqa: N815

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_args: object) -> None: ...


@pytest.fixture
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


SCRIPT = """
import json, sys
from pathlib import Path
from cogworks.errors import WeightsError
from cogworks.weights.source import resolve
for arguments in json.loads(sys.argv[1]):
    try:
        path = resolve(**arguments).path
        print(json.dumps(sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())))
    except WeightsError as error:
        print(json.dumps(str(error)))
print(json.dumps("torch" in sys.modules))
"""


def _resolve_elsewhere(endpoint: str, home: Path, *arguments: dict[str, Any], offline: bool = False) -> list[Any]:
    """Resolve in a process of its own: huggingface_hub reads its environment when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline))}
    command = [sys.executable, "-c", SCRIPT, json.dumps(arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    *results, torch_was_imported = [json.loads(line) for line in done.stdout.splitlines()]
    assert torch_was_imported is False
    return results


def test_the_hub(hub: str, tmp_path: Path) -> None:
    plain, gated, unknown, revision = _resolve_elsewhere(
        hub,
        tmp_path,
        {"source": "org/model"},
        {"source": "org/gated"},
        {"source": "org/unknown"},
        {"source": "org/model", "revision": "v9"},
    )
    assert plain == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model.safetensors.index.json",
        "tokenizer/spiece.model",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
    ]
    assert gated.startswith("org/gated is gated: accept its terms")
    assert unknown.startswith("org/unknown is neither a folder here nor a model on the hub")
    assert revision == "org/model has no revision v9 on the hub"
    cached, local, absent = _resolve_elsewhere(
        hub,
        tmp_path,
        {"source": "org/model"},
        {"source": "org/model", "local_files_only": True},
        {"source": "org/unknown"},
        offline=True,
    )
    assert cached == local == plain
    assert absent.startswith("org/unknown is not in the local cache and the hub cannot be reached or is switched off")


def test_the_hub_with_a_precision_in_the_names(hub: str, tmp_path: Path) -> None:
    only_local, half = _resolve_elsewhere(
        hub,
        tmp_path,
        {"source": "org/model", "local_files_only": True},
        {"source": "org/model", "file_variant": "fp16"},
    )
    assert "not in the local cache and only local files were allowed" in only_local
    assert [name for name in half if "safetensors" in name] == [
        "text_encoder/model.fp16-00001-of-00002.safetensors",
        "text_encoder/model.safetensors.index.fp16.json",
        "transformer/diffusion_pytorch_model.fp16.safetensors",
    ]
