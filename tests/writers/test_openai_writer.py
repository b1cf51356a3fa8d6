"""Against a real server on the loopback that speaks chat/completions."""

import asyncio
import base64
import json
import logging
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hone.build import build, describe
from hone.seats import Writer
from hone.writers.openai import OpenAIWriter

pytest.importorskip("openai")

KEY = "sk-this-is-a-secret-of-the-test"
ASK = [{"role": "user", "content": "Rewrite: 2 + 2"}]


class Endpoint(ThreadingHTTPServer):
    """Answers by a function of the number of the request, which gives a status and a body; keeps what it was asked."""

    daemon_threads = True

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.requests, self.under_way, self.most = answer, [], 0, 0
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.requests)
            self.server.requests.append((self.path, self.headers["Authorization"], body))
            self.server.under_way += 1
            self.server.most = max(self.server.most, self.server.under_way)
        status, answer = self.server.answer(number, body)
        with self.server.lock:
            self.server.under_way -= 1
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_): ...


def reply(text, finish="stop"):
    message = {"role": "assistant", "content": text}
    return 200, {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
    }  # fmt: skip


def failure(status, message):
    return status, {"error": {"message": message, "type": "x", "code": None}}


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    running = []

    def start(answer):
        server = Endpoint(answer)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def write(writer, messages=ASK, seed=3):
    writer.bind(None)
    return asyncio.run(writer.write(messages, seed=seed))


def test_it_sends_messages_settings_seed_and_key(serve):
    server = serve(lambda n, body: reply("harder"))
    writer = OpenAIWriter(
        model="m-1", base_url=server.url, temperature=0.5, extra={"max_completion_tokens": 77, "top_p": 0.9}
    )
    assert write(writer, seed=2**40 + 5) == "harder"
    [(path, authorization, body)] = server.requests
    assert path == "/v1/chat/completions"
    assert authorization == f"Bearer {KEY}"
    assert body == {
        "model": "m-1", "messages": ASK, "temperature": 0.5, "seed": (2**40 + 5) % 2**31,
        "max_completion_tokens": 77, "top_p": 0.9,
    }  # fmt: skip
    write(OpenAIWriter(model="m-1", base_url=server.url, seeded=False))
    assert "seed" not in server.requests[-1][2]


def test_a_passing_failure_is_tried_again(serve):
    server = serve(lambda n, body: failure(500, "busy") if n == 0 else reply("there"))
    assert write(OpenAIWriter(model="m", base_url=server.url, retries=2)) == "there"
    assert len(server.requests) == 2
    assert server.requests[0] == server.requests[1]


@pytest.mark.parametrize(("status", "requests"), [(500, 2), (400, 1), (401, 1)])
def test_a_lasting_failure_raises_and_is_no_empty_reply(serve, status, requests):
    server = serve(lambda n, body: failure(status, f"never, with {KEY}"))
    with pytest.raises(RuntimeError, match=f"openai m at {server.url}: .*{status}.*never") as caught:
        write(OpenAIWriter(model="m", base_url=server.url, retries=1))
    assert len(server.requests) == requests
    assert KEY not in str(caught.value)


def test_nobody_there_raises():
    with pytest.raises(RuntimeError, match="APIConnectionError"):
        write(OpenAIWriter(model="m", base_url="http://127.0.0.1:9/v1", retries=0, timeout=5))


def test_an_answer_in_time_or_none(serve):
    def late(n, body):
        time.sleep(1)
        return reply("late")

    server = serve(late)
    with pytest.raises(RuntimeError, match="APITimeoutError"):
        write(OpenAIWriter(model="m", base_url=server.url, retries=0, timeout=0.2))


@pytest.mark.parametrize("text", ["", None])
def test_a_reply_without_text_raises(serve, text):
    server = serve(lambda n, body: reply(text, "content_filter"))
    with pytest.raises(RuntimeError, match=r"without text \(content_filter\)"):
        write(OpenAIWriter(model="m", base_url=server.url))


def test_so_many_requests_at_once_and_no_more(serve):
    def answer(n, body):
        time.sleep(0.05)
        return reply(body["messages"][0]["content"])

    server = serve(answer)
    writer = OpenAIWriter(model="m", base_url=server.url, concurrency=3)
    writer.bind(None)

    async def ask_all():
        asks = ([{"role": "user", "content": str(i)}] for i in range(12))
        return await asyncio.gather(*(writer.write(ask, seed=0) for ask in asks))

    assert asyncio.run(ask_all()) == [str(i) for i in range(12)]
    assert server.most == 3


def test_the_key_is_in_no_log_no_repr_and_no_dump(serve, caplog):
    caplog.set_level(logging.DEBUG)
    server = serve(lambda n, body: failure(500, "busy") if n == 0 else reply("x"))
    writer = OpenAIWriter(model="m", base_url=server.url)
    write(writer)
    told = [repr(writer), str(vars(writer)), str(describe(writer)), writer.name, caplog.text]
    assert not [text for text in told if KEY in text]
    assert describe(writer)["openai"]["key_env"] == "OPENAI_API_KEY"


def test_a_key_in_the_place_of_its_name_is_refused_and_not_shown(serve, caplog):
    server = serve(lambda n, body: reply("x"))
    writer = OpenAIWriter(model="m", base_url=server.url, key_env=KEY)
    assert KEY not in f"{writer!r} {vars(writer)} {describe(writer)}"
    with pytest.raises(ValueError, match=r"key_env is the \*name\* of an environment variable") as caught:
        write(writer)
    assert KEY not in str(caught.value) + caplog.text
    assert server.requests == []


def test_without_a_key_only_an_endpoint_of_ones_own_is_asked(serve, monkeypatch):
    server = serve(lambda n, body: reply("x"))
    monkeypatch.delenv("OPENAI_API_KEY")
    assert write(OpenAIWriter(model="m", base_url=server.url)) == "x"
    assert server.requests[0][1] == "Bearer none"
    with pytest.raises(ValueError, match="environment variable OPENAI_API_KEY"):
        write(OpenAIWriter(model="m"))
    monkeypatch.setenv("MY_KEY", "k-2")
    assert write(OpenAIWriter(model="m", base_url=server.url, key_env="MY_KEY")) == "x"
    assert server.requests[-1][1] == "Bearer k-2"


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "secret.txt", "link.png", "a/../../secret.png"])
def test_no_file_outside_of_the_working_directory_is_sent_nor_any_that_is_no_picture(
    serve, tmp_path, monkeypatch, name
):
    (tmp_path / "work").mkdir()
    for path in (tmp_path / "secret.png", tmp_path / "work" / "secret.txt"):
        path.write_text("secret")
    (tmp_path / "work" / "link.png").symlink_to(tmp_path / "secret.png")
    monkeypatch.chdir(tmp_path / "work")
    server = serve(lambda n, body: reply("x"))
    with pytest.raises(ValueError, match="is not sent"):
        write(
            OpenAIWriter(model="m", base_url=server.url),
            [{"role": "user", "content": [{"type": "image", "image": name}]}],
        )
    assert server.requests == []


def test_images_are_sent_as_urls(serve, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image = pytest.importorskip("PIL.Image")
    path = tmp_path / "dot.png"
    Image.new("RGB", (2, 2), "red").save(path)
    server = serve(lambda n, body: reply("x"))
    images = [str(path), "https://example.org/a.jpg", "data:image/gif;base64,AA==", Image.new("RGB", (1, 1))]
    parts = [{"type": "image", "image": image} for image in images]
    text = {"type": "text", "text": "Which colour?"}
    write(OpenAIWriter(model="m", base_url=server.url), [{"role": "user", "content": [*parts, text]}])
    sent = server.requests[0][2]["messages"][0]["content"]
    assert sent[-1] == text
    assert {part["type"] for part in sent[:-1]} == {"image_url"}
    urls = [part["image_url"]["url"] for part in sent[:-1]]
    assert urls[1:3] == images[1:3]
    head, _, data = urls[0].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == path.read_bytes()
    assert urls[3].startswith("data:image/png;base64,iVBOR")


def test_it_works_in_one_loop_after_another(serve):
    server = serve(lambda n, body: reply(str(n)))
    writer = OpenAIWriter(model="m", base_url=server.url)
    assert [write(writer) for _ in range(3)] == ["0", "1", "2"]


def test_it_is_a_writer_that_yaml_can_name():
    made = build("writer", {"openai": {"model": "m", "base_url": "http://x/v1", "extra": {"a": 1}}})
    assert isinstance(made, Writer)
    assert made == build("writer", describe(made))
    assert made.name == "openai m at http://x/v1"
    assert OpenAIWriter(model="m").name == "openai m"
