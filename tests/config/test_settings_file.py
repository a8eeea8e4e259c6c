"""The user's settings: defaults without a file, and one sentence for everything that is wrong in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogworks.config.settings import CommandSettings, EndpointSettings, Settings, load_settings
from cogworks.errors import RequestError


def load(tmp_path: Path, text: str | bytes) -> Settings:
    path = tmp_path / "settings.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_settings(path)


def test_without_a_file_everything_has_its_default(tmp_path: Path) -> None:
    assert load_settings(tmp_path / "missing.yaml") == Settings()
    assert Settings().enhance is None


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "enhance:\n", "{}"])
def test_an_empty_file_is_no_settings(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, text) == Settings()


def test_the_users_file_is_the_one_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tmp_path, "enhance: {command: [cat]}")
    monkeypatch.setenv("COGWORKS_SETTINGS", str(tmp_path / "settings.yaml"))
    assert load_settings().enhance == CommandSettings(command=("cat",))


def test_an_endpoint(tmp_path: Path) -> None:
    text = "enhance:\n  base_url: https://example.org/v1/\n  model: small\n  api_key_env: KEY\n  timeout_seconds: 5\n"
    expected = EndpointSettings(
        base_url="https://example.org/v1", model="small", api_key_env="KEY", timeout_seconds=5.0
    )
    assert load(tmp_path, text).enhance == expected


def test_a_command(tmp_path: Path) -> None:
    expected = CommandSettings(command=("ollama", "run", "llama3.2"))
    assert load(tmp_path, "enhance:\n  command: [ollama, run, llama3.2]\n").enhance == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("enhanse: {}", "unknown key 'enhanse'; did you mean 'enhance'?"),
        ("enhance: {base_ur: http://a, model: b}", "enhance: unknown key 'base_ur'; did you mean 'base_url'?"),
        ("enhance: {command: [a], timeout: 3}", "enhance: unknown key 'timeout'; did you mean 'timeout_seconds'?"),
        ("enhance: {command: [a], modell: 3}", "enhance: unknown key 'modell'"),
        ("enhance: {base_url: http://a/v1}", "enhance: model is missing"),
        ("enhance: {}", "enhance: base_url is missing; it holds either base_url and model, or command"),
        ("enhance: {command: [a], base_url: http://a, model: b}", "not both"),
        ("enhance: true", "either base_url and model, or command"),
        ("enhance: {command: ollama run}", "command"),
        ("enhance: {command: []}", "command"),
        ("enhance: {command: ['']}", "name of a program"),
        ("enhance: {command: [python, 3]}", "command.1"),
        ("enhance: {command: [a], timeout_seconds: 0}", "timeout_seconds: input should be greater than 0, got 0"),
        ("enhance: {command: [a], timeout_seconds: .nan}", "timeout_seconds"),
        ("enhance: {command: [a], timeout_seconds: .inf}", "timeout_seconds"),
        ("enhance: {base_url: localhost:11434/v1, model: b}", "base_url looks like http://localhost:11434/v1"),
        ("enhance: {base_url: ftp://a/v1, model: b}", "base_url looks like"),
        ("enhance: {base_url: 'http://', model: b}", "base_url looks like"),
        ("enhance: {base_url: 'http://a:99999', model: b}", "base_url is not an address"),
        ("enhance: {base_url: 'http://[::1', model: b}", "base_url is not an address"),
        ("enhance: {base_url: 'http://a/v1?key=b', model: b}", "base_url looks like"),
        ('enhance: {base_url: "http://a\\r\\nHost: b", model: b}', "base_url is not an address"),
        ("enhance: {base_url: http://a/v1/chat/completions, model: b}", "ends before /chat/completions"),
        ("enhance: {base_url: http://a/v1, model: ''}", "model"),
        ("enhance: {base_url: http://a/v1, model: 4}", "model"),
        ("[1, 2]", "must hold keys and values"),
        ("enhance", "must hold keys and values"),
        ("enhance:\n  - a\n b", "settings.yaml, line 3: not YAML"),
        ("enhance: !!python/object:os.system {}", "not YAML"),
        ("enhance: 2024-99-99", "not YAML"),
        ("[" * 1000, "not YAML"),
        (b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert words in message
    assert str(tmp_path / "settings.yaml") in message
    assert "\n" not in message
    assert len(message) < 400


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        load_settings(tmp_path)


@pytest.mark.parametrize(
    "line", ["api_key_env: sk-very-secret", "api_key: sk-very-secret", "base_url: https://u:sk-very-secret@a/v1"]
)
def test_a_key_in_the_wrong_place_is_not_repeated(tmp_path: Path, line: str) -> None:
    others = "" if line.startswith("base_url") else "  base_url: http://a/v1\n"
    with pytest.raises(RequestError) as caught:
        load(tmp_path, f"enhance:\n{others}  model: b\n  {line}\n")
    assert "api_key_env" in str(caught.value)
    assert "secret" not in str(caught.value)
