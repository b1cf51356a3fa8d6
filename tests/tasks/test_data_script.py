"""``scripts/data``: what it makes is what the configurations read, and what it downloads is what is known of it."""

import gzip
import hashlib
import importlib.util
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import hone
from hone.types import Segment, Task, Trajectory
from hone.verifiers.countdown import CountdownVerifier

ROOT = Path(__file__).parents[2]
FILES = {
    "train.jsonl": b'{"question": "1+1?", "answer": "#### 2"}\n{"question": "1+2?", "answer": "#### 3"}\n',
    "test.jsonl": b'{"question": "1+3?", "answer": "#### 4"}\n',
}


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("data_script", ROOT / "scripts" / "data.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "data_script", module)
    spec.loader.exec_module(module)
    return module


def test_tasks_of_the_abstraction_corpus_are_gathered(script, tmp_path):
    clone = tmp_path / "clone" / "training"
    clone.mkdir(parents=True)
    for name in ("b", "a"):
        pair = {"input": [[0, 1]], "output": [[1, 0]]}
        (clone / f"{name}.json").write_text(json.dumps({"train": [pair], "test": [pair]}))
    script.main(["arc_agi", "--source", str(clone), "--folder", str(tmp_path / "data")])
    rows = [json.loads(line) for line in (tmp_path / "data" / "training.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["a", "b"]
    assert rows[0]["test"][0]["output"] == [[1, 0]]
    with pytest.raises(SystemExit, match="name the folder of task files by --source"):
        script.main(["arc_agi", "--folder", str(tmp_path / "data")])


def test_rows_inside_an_object_are_checked(script):
    source = script.Source("there", 1, ("input", "target"), key="examples")
    script.check(b'{"canary": "x", "examples": [{"input": "1", "target": "2"}]}', source, "here")
    for content in (b'{"rows": []}', b"[]", b"{"):
        with pytest.raises(SystemExit, match="here is not JSON with a list 'examples'"):
            script.check(content, source, "here")
    with pytest.raises(SystemExit, match="should hold 1 rows"):
        script.check(b'{"examples": []}', source, "here")


@pytest.fixture
def mirror():
    """A server of FILES at the paths where the script looks for them; the requests it had."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            content = served.get(self.path)
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_):
            pass

    served = {f"/somewhere/{name}": content for name, content in FILES.items()}
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", served, asked
        server.shutdown()


@pytest.fixture
def small(script, monkeypatch):
    sources = {
        name: script.Source(
            f"somewhere/{name}",
            len(content.splitlines()),
            ("question", "answer"),
            hashlib.sha256(content).hexdigest() if name == "train.jsonl" else None,
        )
        for name, content in FILES.items()
    }
    monkeypatch.setitem(script.DOWNLOADS, "gsm8k", sources)
    return script


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class TestCountdown:
    def test_games_are_solved_all_different_and_always_the_same(self, script, tmp_path, capsys):
        script.main(["countdown", "--folder", str(tmp_path)])
        train, test = read(tmp_path / "train.jsonl"), read(tmp_path / "test.jsonl")
        assert (len(train), len(test)) == (4500, 256)
        verifier = CountdownVerifier()
        for row in train + test:
            task = Task("t", [], meta=row)
            right = Trajectory(task, [Segment("response", "policy", (), text=verifier.example(task))])
            assert verifier(task, right).value == 1, row
            assert len(row["nums"]) in (3, 4)
            assert all(1 <= number <= 99 for number in row["nums"])
            assert 10 <= row["target"] <= 999
        assert len({(*sorted(row["nums"]), row["target"]) for row in train + test}) == 4756
        assert hashlib.sha256((tmp_path / "train.jsonl").read_bytes()).hexdigest().startswith("9f3ae713470d16da")
        assert hashlib.sha256((tmp_path / "test.jsonl").read_bytes()).hexdigest().startswith("b8894d76783a030e")
        assert "test.jsonl: 256 rows" in capsys.readouterr().out

    def test_the_test_rows_do_not_depend_on_the_others(self, script, tmp_path):
        script.main(["countdown", "--folder", str(tmp_path / "a"), "--train", "9", "--test", "5"])
        script.main(["countdown", "--folder", str(tmp_path / "b"), "--train", "2", "--test", "5"])
        script.main(["countdown", "--folder", str(tmp_path / "c"), "--train", "9", "--test", "5", "--seed", "1"])
        first, second, third = (read(tmp_path / name / "test.jsonl") for name in "abc")
        assert first == second != third
        assert read(tmp_path / "a" / "train.jsonl")[:2] == read(tmp_path / "b" / "train.jsonl")

    def test_other_data_are_never_written_over(self, script, tmp_path, capsys):
        small = ["countdown", "--folder", str(tmp_path), "--train", "2", "--test", "1"]
        script.main(small)
        script.main(small)
        assert f"{tmp_path / 'train.jsonl'} is there" in capsys.readouterr().out
        (tmp_path / "train.jsonl").write_text("mine")
        with pytest.raises(SystemExit, match=r"train\.jsonl is there, with other contents; move it away"):
            script.main(small)
        assert (tmp_path / "train.jsonl").read_text() == "mine"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["test.jsonl", "train.jsonl"]

    def test_the_configuration_reads_them(self, script, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        script.main(["countdown", "--train", "500", "--test", "100"])
        config = hone.load_config(ROOT / "configs" / "countdown.yaml")
        trained = {next(config.tasks).prompt[0]["content"] for _ in range(500)}
        tested = {task.prompt[0]["content"] for task in config.eval["test"].tasks}
        assert (len(trained), len(tested)) == (500, 100)
        assert not trained & tested


class TestDownloads:
    def test_files_come_and_are_kept(self, small, mirror, tmp_path, capsys):
        url, _, asked = mirror
        for _ in range(2):
            small.main(["gsm8k", "--folder", str(tmp_path / "new"), "--mirror", url + "/"])
        assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == FILES
        assert asked == [f"/somewhere/{name}" for name in FILES], "the second time nothing is fetched"
        assert "train.jsonl is there" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            (
                "train.jsonl",
                FILES["train.jsonl"].replace(b"1+1", b"1+0"),
                r"train\.jsonl is not the file that is known",
            ),
            ("test.jsonl", FILES["train.jsonl"], r"should hold 1 rows with question, answer; it has 2"),
            ("test.jsonl", b'{"question": "?"}\n', r"should hold 1 rows with question, answer"),
            ("test.jsonl", b"<html>404</html>", r"test\.jsonl is not JSON Lines"),
        ],
    )
    def test_another_file_is_refused_and_not_kept(self, small, mirror, tmp_path, name, content, message):
        url, served, _ = mirror
        served[f"/somewhere/{name}"] = content
        with pytest.raises(SystemExit, match=message):
            small.main(["gsm8k", "--folder", str(tmp_path), "--mirror", url])
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SystemExit, match=message):
            small.main(["gsm8k", "--folder", str(tmp_path), "--mirror", url])

    def test_packed_files_are_unpacked(self, script, mirror, tmp_path, monkeypatch):
        url, served, _ = mirror
        row = b'{"task_id": "a"}\n'
        packed = {"a.jsonl": script.Source("somewhere/a.jsonl.gz", 1, ("task_id",), hashlib.sha256(row).hexdigest())}
        monkeypatch.setitem(script.DOWNLOADS, "humaneval", packed)
        for broken in (gzip.compress(row)[:-9], row):
            served["/somewhere/a.jsonl.gz"] = broken
            with pytest.raises(SystemExit, match=r"cannot download .*a\.jsonl\.gz"):
                script.main(["humaneval", "--folder", str(tmp_path), "--mirror", url])
        served["/somewhere/a.jsonl.gz"] = gzip.compress(row)
        script.main(["humaneval", "--folder", str(tmp_path), "--mirror", url])
        assert (tmp_path / "a.jsonl").read_bytes() == row

    def test_without_a_network_it_says_what_to_fetch_and_where_to_put_it(self, small, mirror, tmp_path):
        url, served, _ = mirror
        del served["/somewhere/test.jsonl"]
        with pytest.raises(SystemExit, match=r"cannot download .*test\.jsonl: .*404"):
            small.main(["gsm8k", "--folder", str(tmp_path), "--mirror", url])
        with pytest.raises(SystemExit) as ended:
            small.main(["gsm8k", "--folder", str(tmp_path / "none"), "--mirror", "http://127.0.0.1:9"])
        for name in FILES:
            assert f"http://127.0.0.1:9/somewhere/{name}\n    as {tmp_path / 'none' / name}" in str(ended.value)
        assert not (tmp_path / "none").exists()

    @pytest.mark.parametrize("name", ["gsm8k", "bfcl", "ifeval", "aqua", "bbh", "humaneval", "mbpp"])
    def test_files_are_named_as_the_configurations_have_them(self, script, name):
        trained = {
            "gsm8k": "gsm8k.yaml",
            "bfcl": "function_calling.yaml",
            "humaneval": "humaneval.yaml",
            "mbpp": "mbpp.yaml",
        }
        places = [
            place for place in (trained.get(name, ""), f"eval/{name}.yaml") if (ROOT / "configs" / place).is_file()
        ]
        texts = [(ROOT / "configs" / place).read_text() for place in places]
        for file, source in script.DOWNLOADS[name].items():
            assert any(f" data/{name}/{file}" in text for text in texts)
            owners = ("openai/", "ShishirPatil/", "josejg/", "google-deepmind/", "suzgunmirac/", "deepseek-ai/")
            assert source.path.startswith(owners)
        assert all(f"scripts/data {name}" in text for text in texts)


def test_the_command_runs_from_any_folder(tmp_path):
    command = [ROOT / "scripts" / "data", "countdown", "--train", "2", "--test", "1", "--folder", str(tmp_path / "out")]
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(read(tmp_path / "out" / "train.jsonl")) == 2
