"""What a user types as a model: names, folders and a hub that is served by the test itself."""

import errno
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cogworks.errors import WeightsError
from cogworks.weights import source
from cogworks.weights.source import download, open_folder, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
INDEX = b'{"_class_name": "CogVideoXPipeline"}'
HUB_FILES = {
    "model_index.json": INDEX,
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
PICKLED_FILES = {
    "model_index.json": INDEX,
    "transformer/config.json": b"{}",
    "transformer/diffusion_pytorch_model.safetensors": b"full",
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.bin": b"pickle",
    "vae/diffusion_pytorch_model.fp16.bin": b"half",
    "text_encoder/config.json": b"{}",
    "text_encoder/pytorch_model.bin.index.json": b"{}",
    "text_encoder/pytorch_model-00001-of-00001.bin": b"pickle",
}
REPOSITORIES = {
    "org/model": HUB_FILES,
    "org/pickled": PICKLED_FILES,
    "org/flux": {"model_index.json": b'{"_class_name": "FluxPipeline"}', "transformer/model.safetensors": b"huge"},
    "org/lora": {"pytorch_lora_weights.safetensors": b"factors"},
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
        ("./nowhere", "there is no folder ./nowhere$"),
        ("./chekpoints/one", r"there is no folder ./chekpoints/one$"),
        ("./checkpoint", r"there is no folder ./checkpoint; did you mean checkpoints\?"),
        ("a/b/c", "there is no folder a/b/c"),
        ("/nowhere", "there is no folder /nowhere"),
    ],
)
def test_what_is_not_there(typed: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").mkdir()
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
        repository = "/".join(path.removeprefix("/api/models").split("/")[1:3])
        files = REPOSITORIES.get(repository, {})
        if path.startswith("/api/models/org/gated/"):
            self._refuse(403, "GatedRepo")
        elif path.startswith("/api/models/org/busy/"):
            self._refuse(503, "")
        elif not files:
            self._refuse(404, "RepoNotFound")
        elif path == f"/api/models/{repository}/revision/main":
            self._json({"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})
        elif path.startswith(f"/api/models/{repository}/revision/"):
            self._refuse(404, "RevisionNotFound")
        elif path == f"/api/models/{repository}/tree/{COMMIT}":
            self._json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in files.items()
                ]
            )
        else:
            data = files[path.removeprefix(f"/{repository}/resolve/{COMMIT}/")]
            self._send(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT})

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
import json, logging, sys
from pathlib import Path
from cogworks.errors import WeightsError
from cogworks.weights.source import resolve
logging.getLogger("cogworks").addHandler(logging.StreamHandler())
logging.getLogger("cogworks").setLevel("INFO")
for arguments in json.loads(sys.argv[1]):
    try:
        path = resolve(**arguments).path
        print(json.dumps(sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())))
    except WeightsError as error:
        print(json.dumps(str(error)))
print(json.dumps("torch" in sys.modules))
"""


class _Results(list[Any]):
    """What each call gave, and what went to stderr meanwhile."""

    err = ""


def _resolve_elsewhere(
    endpoint: str, home: Path, *arguments: dict[str, Any], offline: bool = False, **environment: str
) -> _Results:
    """Resolve in a process of its own: huggingface_hub reads its environment when it is imported."""
    hub = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline))}
    command = [sys.executable, "-c", SCRIPT, json.dumps(arguments)]
    done = subprocess.run(
        command, env={**os.environ, **hub, **environment}, capture_output=True, text=True, check=True, timeout=60
    )
    *results, torch_was_imported = [json.loads(line) for line in done.stdout.splitlines()]
    assert torch_was_imported is False
    found = _Results(results)
    found.err = done.stderr
    return found


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
    assert absent.startswith("org/unknown is not in the local cache and the hub is switched off (HF_HUB_OFFLINE)")


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


def test_what_the_hub_has_no_safetensors_of_is_fetched_pickled(hub: str, tmp_path: Path) -> None:
    both, again = _resolve_elsewhere(
        hub, tmp_path, {"source": "org/pickled"}, {"source": "org/pickled", "local_files_only": True}
    )
    assert both == again == sorted(set(PICKLED_FILES) - {"vae/diffusion_pytorch_model.fp16.bin"})
    (half,) = _resolve_elsewhere(hub, tmp_path / "other", {"source": "org/pickled", "file_variant": "fp16"})
    assert [name for name in half if name.startswith("vae")] == [
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.bin",
    ]


def test_what_is_no_model_of_the_family_is_refused_before_its_weights_are_fetched(hub: str, tmp_path: Path) -> None:
    flux, lora = _resolve_elsewhere(hub, tmp_path, {"source": "org/flux"}, {"source": "org/lora"})
    assert flux == "org/flux is a FluxPipeline, and Cogworks reads models of the CogVideoX family alone"
    assert lora.startswith("org/lora holds no model of the CogVideoX family: it has neither model_index.json nor")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_one_line_is_said_where_nobody_watches(hub: str, tmp_path: Path) -> None:
    first = _resolve_elsewhere(hub, tmp_path, {"source": "org/model"})
    assert first.err == f"fetching org/model from the hub into {tmp_path / 'hub'}\n"
    assert _resolve_elsewhere(hub, tmp_path, {"source": "org/model"}).err == ""


def test_a_download_goes_on_with_what_is_missing(hub: str, tmp_path: Path) -> None:
    _resolve_elsewhere(hub, tmp_path, {"source": "org/model"})
    (weights,) = tmp_path.rglob("diffusion_pytorch_model.safetensors")
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("hub/*/blobs/*")}
    blob = weights.resolve()
    weights.unlink()
    blob.unlink()
    (partly,) = _resolve_elsewhere(hub, tmp_path, {"source": "org/model"}, offline=True)
    assert partly.startswith("org/model is not in full in the local cache and the hub is switched off")
    _resolve_elsewhere(hub, tmp_path, {"source": "org/model"})
    again = {path: path.stat().st_mtime_ns for path in tmp_path.glob("hub/*/blobs/*")}
    assert set(again) == set(kept)
    assert [path for path in kept if kept[path] != again[path]] == [blob]


NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens there


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"HF_ENDPOINT": NOWHERE}, r"the hub cannot be reached \(.*refused\)"),
        ({"HTTP_PROXY": NOWHERE, "NO_PROXY": ""}, r"cannot be reached|could not be fetched from the hub"),
        ({"HF_ENDPOINT": "nonsense"}, "cannot be reached|could not be fetched from the hub"),
        ({"HTTP_PROXY": "nonsense://proxy", "NO_PROXY": ""}, "could not be fetched from the hub"),
    ],
)
def test_a_hub_out_of_reach(hub: str, tmp_path: Path, environment: dict[str, str], reason: str) -> None:
    environment = {"HF_ENDPOINT": hub, **environment}
    endpoint = environment.pop("HF_ENDPOINT")
    _resolve_elsewhere(hub, tmp_path, {"source": "org/model"})
    here, absent = _resolve_elsewhere(
        endpoint, tmp_path, {"source": "org/model"}, {"source": "org/other"}, **environment
    )
    assert re.search(reason, absent), absent
    assert "\n" not in absent
    assert "model_index.json" in here  # a copy that is complete serves while the hub does not


def test_a_hub_that_is_busy(hub: str, tmp_path: Path) -> None:
    (busy,) = _resolve_elsewhere(hub, tmp_path, {"source": "org/busy"})
    assert busy.startswith("org/busy is not in the local cache and the hub cannot be reached (")
    assert "503" in busy


def _client_errors() -> list[tuple[Exception, str]]:
    from huggingface_hub import errors

    client = sys.modules[
        next(k for k in errors.HfHubHTTPError.__mro__ if k.__name__ == "HTTPError").__module__.split(".")[0]
    ]
    return [
        (OSError(errno.ENOSPC, "No space left on device"), r"the disk of .* is full; make room, or move the cache"),
        (RuntimeError("Data processing error: No space left on device (os error 28)"), "the disk of .* is full"),
        (PermissionError(errno.EACCES, "Permission denied"), r"may not be written to; move the cache \(HF_HOME\)"),
        (client.ProxyError("407 Proxy Authentication Required"), "fetched from the hub: 407 Proxy Auth"),
        (
            client.ReadTimeout("The read operation timed out"),
            "fetched from the hub: The read operation timed out; what",
        ),
        (client.InvalidURL("Invalid port: 'x'"), "could not be fetched from the hub: Invalid port"),
        (TimeoutError("timed out"), "could not be fetched from the hub: timed out"),
        (OSError("Consistency check failed: file should be of size 5\nmore"), "file should be of size 5; what has"),
        (ValueError("The file is too large"), "The file is too large"),
        (ConnectionResetError(), "could not be fetched from the hub: ConnectionResetError"),
    ]


@pytest.mark.parametrize(("raised", "message"), _client_errors(), ids=lambda value: type(value).__name__)
def test_whatever_the_client_raises_is_one_sentence(
    raised: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise raised

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(WeightsError, match=message) as caught:
        resolve("org/model")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("THUDM/CogVideoX-5B", "Did you mean THUDM/CogVideoX-5b?"),
        ("thudm/cogvideox1.5-5b-i2v", "Did you mean THUDM/CogVideoX1.5-5B-I2V?"),
        ("THUDM/CogVideo-2b", "Did you mean THUDM/CogVideoX-2b?"),
        ("someone/else", "holds it"),
    ],
)
def test_a_hub_id_that_is_almost_known(typed: str, hint: str, tmp_path: Path) -> None:
    (message,) = _resolve_elsewhere(NOWHERE, tmp_path, {"source": typed}, offline=True)
    assert message.endswith(hint)


def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    _diffusers_folder(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"\./m is on this machine already"):
        download("./m")
    assert download("tiny").path == source.ASSETS / "tiny"
    (tmp_path / "model_index.json").write_bytes(INDEX)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_args, **_kwargs: str(tmp_path))
    with pytest.raises(WeightsError, match="has no weights"):
        download("org/model")
    weights.parent.mkdir()
    weights.write_text('{"weight_map": {"a": "one.safetensors"}}')
    with pytest.raises(WeightsError, match=r"one\.safetensors is missing: .*index\.json lists it"):
        download("org/model")
    (weights.parent / "one.safetensors").touch()
    assert download("org/model").path == tmp_path
