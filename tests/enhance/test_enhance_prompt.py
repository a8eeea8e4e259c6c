"""Short prompts to long ones, through a real HTTP server and a real program, and every way in which that can fail."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import HTTPRedirectHandler

import pytest

from cogworks.config.settings import CommandSettings, EndpointSettings, load_settings
from cogworks.enhance.prompt import MAX_ANSWER_CHARACTERS, enhance_prompt
from cogworks.errors import RequestError

LONG = "A red fox crosses a snowy field at dawn. " * 8
KEY = "sk-test-0123456789"


@dataclass
class Endpoint:
    """A server that answers as it is told and remembers what it was asked."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    pause_seconds: float = 0.0
    asked: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    url: str = ""

    def answer(self, text: object) -> None:
        """Say `text`, in the shape of a chat completion."""
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        self.body = json.dumps({"id": "1", "object": "chat.completion", "choices": [choice]}).encode()

    def settings(self, **more: Any) -> EndpointSettings:
        return EndpointSettings(base_url=self.url, model="small", **more)


@pytest.fixture
def new_endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Endpoint]]:
    servers: list[ThreadingHTTPServer] = []
    # A proxy that nobody could reach: an endpoint on this machine must not go through it.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    def start() -> Endpoint:
        endpoint = Endpoint()
        endpoint.answer(LONG)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                endpoint.asked.append((self.path, dict(self.headers), json.loads(content or b"null")))
                time.sleep(endpoint.pause_seconds)
                try:
                    self.send_response(endpoint.status)
                    for name, value in {"Content-Length": str(len(endpoint.body)), **endpoint.headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(endpoint.body)
                except OSError:
                    pass  # the client had waited long enough

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
        return endpoint

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def endpoint(new_endpoint: Callable[[], Endpoint]) -> Endpoint:
    return new_endpoint()


def failure(settings: EndpointSettings | CommandSettings | None, prompt: str = "a fox") -> str:
    with pytest.raises(RequestError) as caught:
        enhance_prompt(prompt, settings)
    message = str(caught.value)
    if settings is not None:
        assert "\n" not in message
        assert len(message) < 500
    assert KEY not in message
    return message


def test_an_endpoint_is_asked_once_as_openai_is(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", f" {KEY}\n")
    assert enhance_prompt("a fox", endpoint.settings(api_key_env="THE_KEY")) == LONG.strip()
    ((path, headers, body),) = endpoint.asked
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert headers["Content-Type"] == "application/json"
    assert (body["model"], body["stream"]) == ("small", False)
    system, user = body["messages"]
    assert user == {"role": "user", "content": "a fox"}
    assert system["role"] == "system"
    for word in ("subject", "action", "setting", "light", "camera", "style", "60 to 120 words", "English"):
        assert word in system["content"]


def test_without_a_variable_no_key_is_sent(endpoint: Endpoint) -> None:
    enhance_prompt("a fox", endpoint.settings())
    assert "Authorization" not in endpoint.asked[0][1]


def test_a_video_from_an_image_gets_other_instructions(endpoint: Endpoint) -> None:
    enhance_prompt("a fox", endpoint.settings())
    enhance_prompt("a fox", endpoint.settings(), image_to_video=True)
    text, image = (body["messages"][0]["content"] for _, _, body in endpoint.asked)
    assert image.startswith(text)
    assert "picture" in image.removeprefix(text)


def test_any_text_may_be_asked(endpoint: Endpoint) -> None:
    prompt = 'Ein "Fuchs"\n im Schnee 🦊 \u0000 \udc80'
    enhance_prompt(prompt, endpoint.settings())
    assert endpoint.asked[0][2]["messages"][1]["content"] == prompt


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("  A fox.\n\nIt runs.\n", "A fox. It runs."),
        ('"A fox runs."', "A fox runs."),
        ("“A fox runs.”", "A fox runs."),
        ('"Fox" is written on "a sign"', '"Fox" is written on "a sign"'),
        ("<think>They want\na fox.</think>\nA fox runs.", "A fox runs."),
        ('"', '"'),
    ],
)
def test_what_models_put_around_an_answer_is_taken_off(endpoint: Endpoint, answer: str, expected: str) -> None:
    endpoint.answer(answer)
    assert enhance_prompt("a fox", endpoint.settings()) == expected


def test_nothing_configured_shows_what_to_write_and_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    monkeypatch.setenv("COGWORKS_SETTINGS", str(path))
    message = failure(load_settings().enhance)
    assert str(path) in message
    # The lines work as they are shown.
    lines = message.split("\n\n")[1]
    assert len(lines.splitlines()) == 4
    path.write_text(lines)
    assert load_settings().enhance == EndpointSettings(base_url="http://localhost:11434/v1", model="llama3.2")
    path.write_text(lines.replace("# api", "api"))
    enhancer = load_settings().enhance
    assert isinstance(enhancer, EndpointSettings)
    assert enhancer.api_key_env == "OPENAI_API_KEY"


def test_a_variable_without_a_key(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THE_KEY", raising=False)
    assert "THE_KEY" in failure(endpoint.settings(api_key_env="THE_KEY"))
    monkeypatch.setenv("THE_KEY", "")
    assert "empty or not set" in failure(endpoint.settings(api_key_env="THE_KEY"))
    monkeypatch.setenv("THE_KEY", f"{KEY}\r\nHost: elsewhere")
    assert "no key has" in failure(endpoint.settings(api_key_env="THE_KEY"))
    assert endpoint.asked == []


def test_nobody_listens(new_endpoint: Callable[[], Endpoint]) -> None:
    message = failure(EndpointSettings(base_url="http://127.0.0.1:1/v1", model="small"))
    assert "http://127.0.0.1:1/v1/chat/completions cannot be reached (Connection refused)" in message
    message = failure(EndpointSettings(base_url="http://nowhere.invalid/v1", model="small", timeout_seconds=5.0))
    assert "nowhere.invalid" in message


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    endpoint.status, endpoint.body = status, json.dumps({"error": {"message": f"bad key {KEY}"}}).encode()
    assert f"refused the key (status {status}): check THE_KEY" in failure(endpoint.settings(api_key_env="THE_KEY"))
    assert "without a key" in failure(endpoint.settings())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "no model\\n small ' + KEY.encode() + b'"}}', "status 404: no model small (the key)"),
        (b'{"error": "no such model"}', "status 404: no such model"),
        (b'{"error": {}}', "status 404: {"),
        (b"<html>gone</html>", "status 404: <html>gone</html>"),
        (b"x" * 100_000, "status 404: xxx"),
        (b"", "status 404: Not Found"),
    ],
)
def test_another_refusal_is_passed_on(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, body: bytes, words: str
) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    endpoint.status, endpoint.body = 404, body
    assert words in failure(endpoint.settings(api_key_env="THE_KEY"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_does_not_carry_the_key_away(
    new_endpoint: Callable[[], Endpoint], monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    asked, other = new_endpoint(), new_endpoint()
    asked.status, asked.headers = status, {"Location": other.url}
    message = failure(asked.settings(api_key_env="THE_KEY"))
    assert f"sends on to {other.url}" in message
    assert "base_url" in message
    assert other.asked == []


def test_the_negative_control_of_the_redirect(
    new_endpoint: Callable[[], Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As urllib is, it would have carried the key to the other address."""
    monkeypatch.setenv("THE_KEY", KEY)
    monkeypatch.setattr("cogworks.enhance.endpoint._NoRedirects", HTTPRedirectHandler)
    asked, other = new_endpoint(), new_endpoint()
    asked.status, asked.headers = 302, {"Location": other.url}
    enhance_prompt("a fox", asked.settings(api_key_env="THE_KEY"))
    assert [headers["Authorization"] for _, headers, _ in other.asked] == [f"Bearer {KEY}"]


def test_an_answer_that_does_not_come(endpoint: Endpoint) -> None:
    endpoint.pause_seconds = 0.6
    started = time.monotonic()
    message = failure(endpoint.settings(timeout_seconds=0.1))
    assert "did not answer within 0.1 seconds" in message
    assert "timeout_seconds" in message
    assert time.monotonic() - started < 0.5


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b'{"choices": [',
        b"\xff\xfe",
        b"[]",
        b"3",
        b'{"choices": []}',
        b'{"choices": [{"text": "an older API"}]}',
        b'{"choices": [{"message": {"content": 3}}]}',
        b'{"choices": [{"message": {"content": ["parts"]}}]}',
        b"[" * 100_000,
    ],
)
def test_an_answer_of_another_shape(endpoint: Endpoint, body: bytes) -> None:
    endpoint.body = body
    assert "did not answer as chat completions do" in failure(endpoint.settings())


@pytest.mark.parametrize("text", ["", " \n", None, '""', "<think>hm</think>"])
def test_an_empty_answer(endpoint: Endpoint, text: str | None) -> None:
    endpoint.answer(text)
    assert f"the answer of {endpoint.url} is empty" in failure(endpoint.settings())


def test_an_answer_that_is_too_long(endpoint: Endpoint) -> None:
    endpoint.answer("x" * MAX_ANSWER_CHARACTERS)
    assert len(enhance_prompt("a fox", endpoint.settings())) == MAX_ANSWER_CHARACTERS
    endpoint.answer("x" * (MAX_ANSWER_CHARACTERS + 1))
    assert f"has {MAX_ANSWER_CHARACTERS + 1} characters" in failure(endpoint.settings())
    endpoint.body = b" " * (2**20 + 1)
    assert "is longer than 1048576 bytes" in failure(endpoint.settings())


def test_an_answer_that_breaks_off(endpoint: Endpoint) -> None:
    endpoint.headers = {"Content-Length": "100000"}
    assert "broke off its answer" in failure(endpoint.settings())


@contextmanager
def raw_server(answer: Callable[[socket.socket], None], timeout_seconds: float) -> Iterator[EndpointSettings]:
    """An endpoint that reads one request and answers bytes of its own making."""

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):  # the client may have had enough
            connection.recv(65536)
            answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        yield EndpointSettings(base_url=url, model="small", timeout_seconds=timeout_seconds)


def test_a_server_that_speaks_no_http() -> None:
    with raw_server(lambda connection: connection.sendall(b"SSH-2.0-server\r\n\r\n"), 5.0) as settings:
        assert "broke off its answer" in failure(settings)


def test_an_answer_that_drips() -> None:
    """Every byte comes in time, and all of them together do not."""

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1000):
            connection.sendall(b" ")
            time.sleep(0.02)

    with raw_server(drip, 0.2) as settings:
        assert "did not answer within 0.2 seconds" in failure(settings)


def program(tmp_path: Path, code: str, *arguments: str, **more: Any) -> CommandSettings:
    path = tmp_path / "program.py"
    path.write_text(f"import sys, time\n{code}\n", encoding="utf-8")
    return CommandSettings(command=(sys.executable, "-S", str(path), *arguments), **more)


def test_a_program_reads_the_request_and_answers(tmp_path: Path) -> None:
    code = """
text = sys.stdin.buffer.read().decode("utf-8")
assert "60 to 120 words" in text and "picture" in text
sys.stdout.buffer.write(("  " + sys.argv[1] + " " + text.rstrip().splitlines()[-1] + " ü\\n").encode("utf-8"))
"""
    settings = program(tmp_path, code, "$HOME;")
    assert enhance_prompt("ein Fuchs 🦊", settings, image_to_video=True) == "$HOME; ein Fuchs 🦊 ü"


def test_a_program_need_not_read(tmp_path: Path) -> None:
    assert enhance_prompt("a fox " * 50_000, program(tmp_path, "print('A fox runs.')")) == "A fox runs."


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "sys.exit('first\\nthe model is not there\\n')",
            "ended with status 1 instead of an answer: the model is not there",
        ),
        ("sys.exit(3)", "ended with status 3 instead of an answer: and said nothing"),
        ("print('half'); sys.stderr.buffer.write(bytes([255])); sys.exit(1)", "status 1"),
        ("pass", "is empty"),
        ("print('x' * 10000)", "has 10000 characters"),
    ],
)
def test_a_program_that_fails(tmp_path: Path, code: str, words: str) -> None:
    message = failure(program(tmp_path, code))
    assert words in message
    assert sys.executable in message


def test_a_program_that_takes_too_long(tmp_path: Path) -> None:
    started = time.monotonic()
    assert "did not answer within 0.2 seconds" in failure(program(tmp_path, "time.sleep(30)", timeout_seconds=0.2))
    assert time.monotonic() - started < 10


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    assert "there is no program 'missing-program'" in failure(CommandSettings(command=("missing-program",)))
    (tmp_path / "plain.txt").write_text("hello")
    assert "cannot be run (Permission denied)" in failure(CommandSettings(command=(str(tmp_path / "plain.txt"),)))
