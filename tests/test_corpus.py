"""Where stories come from: hosts on 127.0.0.1 that work, fail, send other files or nothing; simulated stories."""

import hashlib
import io
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import babi_simulator
import corpus
import data_utils
from corpus import find_corpus, is_simulated
from flags import InputError

FILES = {
    f"tasks_1-20_v1-2/{folder}/qa1_where_{split}.txt": b"1 Mary went home.\n2 Where is Mary?\thome\t1\n"
    for folder in ("en", "en-10k")
    for split in ("train", "test")
}


def archive(files=FILES, prefix="", extra=None):
    """The bytes of a .tar.gz; `extra` is one more member, a `tarfile.TarInfo`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size, member.mode = len(content), 0o400
            tar.addfile(member, io.BytesIO(content))
        if extra is not None:
            tar.addfile(extra, io.BytesIO(bytes(extra.size)))
    return packed.getvalue()


GOOD = archive()


# --- a host ---------------------------------------------------------------------------------------------


class Host(ThreadingHTTPServer):
    """A server on 127.0.0.1.

    Attributes:
        answers: a dict from path to a function of the handler that answers it.
        requests: the paths requested so far.
    """

    daemon_threads = True

    def __init__(self):
        self.answers, self.requests = {}, []
        self.closing = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def offers(self, path, answer, content=GOOD):
        """Answers a path with a function of the handler; returns (address, checksum of content)."""
        self.answers[path] = answer
        return f"http://127.0.0.1:{self.server_port}{path}", hashlib.sha256(content).hexdigest()

    def handle_error(self, request, client_address):
        pass  # a client that gave up


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        self.server.answers[self.path](self)

    def log_message(self, *_):
        pass


def sends(content, length=None, chunked=False):
    """Sends content after a header that promises `length` bytes."""

    def answer(handler):
        handler.protocol_version = "HTTP/1.1"
        handler.close_connection = True
        handler.send_response(200)
        if chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        else:
            handler.send_header("Content-Length", str(length or len(content)))
        handler.end_headers()
        handler.wfile.write(f"{length:x}\r\n".encode() + content if chunked else content)

    return answer


def silent(handler):
    handler.server.closing.wait(20)


def silent_half_way(handler):
    sends(GOOD[:100], length=len(GOOD))(handler)
    handler.wfile.flush()
    silent(handler)


def missing(handler):
    handler.send_error(404)


def talks_nonsense(handler):
    handler.wfile.write(b"nothing of HTTP\r\n\r\n")


@pytest.fixture
def host():
    server = Host()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def clone(tmp_path, monkeypatch):
    """Every test starts in an empty folder that stands for the project's, and reaches no other machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("DATA", "PUBLISHED", "SIMULATED"):
        place = os.path.relpath(getattr(corpus, name), corpus.HERE)
        monkeypatch.setattr(corpus, name, str(tmp_path / place))
    monkeypatch.setattr(corpus, "SOURCES", ())
    monkeypatch.setattr(corpus, "SILENCE", 1)
    monkeypatch.setattr(corpus, "SIMULATED_QUESTIONS", 5)
    return tmp_path


def use(monkeypatch, *sources):
    monkeypatch.setattr(corpus, "SOURCES", sources)


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refuses_connections():
    """The address of a host that refuses connections."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}/corpus"


# --- hosts that work ------------------------------------------------------------------------------------


def test_data_is_beside_the_scripts():
    folder = os.path.dirname(os.path.abspath(data_utils.__file__))
    place = "import corpus; print(corpus.PUBLISHED, corpus.SIMULATED)"
    done = subprocess.run([sys.executable, "-c", place], capture_output=True, text=True, env=environment())
    assert done.stdout.split() == [f"{folder}/data/tasks_1-20_v1-2/en", f"{folder}/data/simulated/en"]


def environment():
    return os.environ | {"PYTHONPATH": os.path.dirname(corpus.__file__)}


def test_archive_is_fetched_once(host, clone, monkeypatch, capsys):
    use(monkeypatch, host.offers("/corpus", sends(GOOD)))
    assert find_corpus() == (corpus.PUBLISHED, False)
    assert tree(clone / "data") == FILES  # and no download beside it
    assert os.listdir(clone / "data") == ["tasks_1-20_v1-2"]
    training, _ = data_utils.load_task(corpus.PUBLISHED, 1)
    assert training[0].answer == "home"
    assert "fetching" in capsys.readouterr().out

    assert find_corpus() == (corpus.PUBLISHED, False)
    assert host.requests == ["/corpus"]
    assert capsys.readouterr().out == ""
    assert socket.getdefaulttimeout() is None


def test_files_can_be_changed_by_whoever_unpacks_them(host, clone, monkeypatch):
    use(monkeypatch, host.offers("/corpus", sends(GOOD)))
    find_corpus()
    for name in FILES:  # 0o400 in the archive
        assert (clone / "data" / name).stat().st_mode & 0o600 == 0o600


def test_corpus_may_stand_deeper_in_the_archive(host, clone, monkeypatch):
    content = archive(prefix="./babi/deep/")
    use(monkeypatch, host.offers("/corpus", sends(content), content))
    assert find_corpus() == (corpus.PUBLISHED, False)
    assert tree(clone / "data") == FILES


def test_fetched_corpus_joins_other_files(host, clone, monkeypatch):
    own = clone / "data/tasks_1-20_v1-2/own/notes.txt"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    Path(corpus.PUBLISHED).mkdir()  # an empty folder counts as missing
    use(monkeypatch, host.offers("/corpus", sends(GOOD)))
    assert find_corpus() == (corpus.PUBLISHED, False)
    assert own.read_text() == "mine"
    assert sorted(os.listdir(corpus.PUBLISHED)) == ["qa1_where_test.txt", "qa1_where_train.txt"]


# --- hosts that do not ----------------------------------------------------------------------------------

# What the host does, and words of the message.
FAILURES = {
    "wrong checksum": (sends(b"<html>Log in to this network</html>"), "checksum is wrong"),
    "cut": (sends(GOOD[:100], length=len(GOOD)), f"100 bytes read, {len(GOOD) - 100} more expected"),
    "cut chunk": (sends(GOOD[:100], length=len(GOOD), chunked=True), "IncompleteRead"),
    "missing": (missing, "HTTP Error 404"),
    "nonsense": (talks_nonsense, "nothing of HTTP"),
    "silent": (silent, "timed out"),
    "silent half-way": (silent_half_way, "timed out"),
    "refused": (None, "Connection refused"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_next_host_is_asked_and_nothing_kept(failure, host, clone, monkeypatch, capsys):
    answer, words = FAILURES[failure]
    first = host.offers("/first", answer) if answer else (refuses_connections(), "")
    second = host.offers("/second", sends(GOOD))

    use(monkeypatch, first)
    start = time.monotonic()
    assert find_corpus() == (corpus.SIMULATED, True)
    assert time.monotonic() - start < 5
    assert os.listdir(clone / "data") == ["simulated"]  # no damaged download that a later run could trust
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(first[0])]
    assert words in line and line.endswith(".")

    use(monkeypatch, first, second)
    assert find_corpus() == (corpus.PUBLISHED, False)
    assert tree(clone / "data" / "tasks_1-20_v1-2") == tree_of_good()
    assert host.requests == (["/first", "/first", "/second"] if answer else ["/second"])
    assert sorted(os.listdir(clone / "data")) == ["simulated", "tasks_1-20_v1-2"]


def tree_of_good():
    return {name.partition("/")[2]: content for name, content in FILES.items()}


def member(name, kind=tarfile.REGTYPE, target="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


@pytest.mark.parametrize(
    ("hostile", "refused"),
    [
        (member("../escaped.txt", size=4), True),
        (member("tasks_1-20_v1-2/en/../../../../escaped.txt", size=4), True),
        (member("{outside}/escaped.txt", size=4), False),  # unpacked inside, without the leading slash
        (member("../escaped", tarfile.DIRTYPE), True),
        (member("tasks_1-20_v1-2/en/qa2_train.txt", tarfile.SYMTYPE, "/etc/passwd"), True),
        (member("tasks_1-20_v1-2/en/qa2_train.txt", tarfile.SYMTYPE, "../../../escaped.txt"), True),
        (member("tasks_1-20_v1-2/en/qa2_train.txt", tarfile.LNKTYPE, "../escaped.txt"), True),
        (member("tasks_1-20_v1-2/en/qa2_train.txt", tarfile.FIFOTYPE), True),
        (member("tasks_1-20_v1-2/en/qa2_train.txt", tarfile.CHRTYPE), True),
    ],
    ids=["parent", "parent inside", "absolute", "folder", "absolute link", "link", "hard link", "pipe", "device"],
)
def test_nothing_is_unpacked_outside_the_folder(hostile, refused, host, clone, monkeypatch):
    hostile.name = hostile.name.format(outside=clone)
    content = archive(extra=hostile)
    use(monkeypatch, host.offers("/corpus", sends(content), content))
    if refused:
        with pytest.raises(tarfile.FilterError):
            find_corpus()
        assert tree(clone) == {} and os.listdir(clone / "data") == []
    else:
        assert find_corpus() == (corpus.PUBLISHED, False)
        assert tree(clone / "data") == FILES and os.listdir(clone) == ["data"]


def test_python_that_cannot_unpack_safely_is_refused(host, clone, monkeypatch):
    use(monkeypatch, host.offers("/corpus", sends(GOOD)))
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(InputError, match="update it to 3.10.12, 3.11.4 or newer"):
        find_corpus()
    assert os.listdir(clone / "data") == []


# --- several at once ------------------------------------------------------------------------------------


def at_once(count):
    """Calls find_corpus in `count` threads; returns a list of results or exceptions."""
    results = []

    def find():
        try:
            results.append(find_corpus())
        except BaseException as error:
            results.append(error)

    threads = [threading.Thread(target=find) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def test_two_may_fetch_at_once(host, clone, monkeypatch):
    together = threading.Barrier(2, timeout=10)

    def both(handler):
        together.wait()
        sends(GOOD)(handler)

    monkeypatch.setattr(corpus, "SILENCE", 10)
    use(monkeypatch, host.offers("/corpus", both))
    assert at_once(2) == [(corpus.PUBLISHED, False)] * 2
    assert host.requests == ["/corpus"] * 2
    assert tree(clone / "data") == FILES
    assert os.listdir(clone / "data") == ["tasks_1-20_v1-2"]


def test_two_may_simulate_at_once(clone):
    assert at_once(2) == [(corpus.SIMULATED, True)] * 2
    assert os.listdir(clone / "data") == ["simulated"]
    assert os.listdir(clone / "data/simulated") == ["en"]


def test_corpus_that_another_process_put_there_first_is_kept(host, clone, monkeypatch):
    def first_another(handler):
        Path(corpus.PUBLISHED).mkdir(parents=True)
        (Path(corpus.PUBLISHED) / "qa1_train.txt").write_text("first")
        sends(GOOD)(handler)

    use(monkeypatch, host.offers("/corpus", first_another))
    assert find_corpus() == (corpus.PUBLISHED, False)
    assert tree(Path(corpus.PUBLISHED)) == {"qa1_train.txt": b"first"}


def test_corpus_that_another_process_fetched_is_used_although_the_host_fails(host, clone, monkeypatch):
    def another(handler):
        Path(corpus.PUBLISHED).mkdir(parents=True)
        (Path(corpus.PUBLISHED) / "qa1_train.txt").write_text("first")
        missing(handler)

    use(monkeypatch, host.offers("/corpus", another), host.offers("/second", missing))
    assert find_corpus() == (corpus.PUBLISHED, False)
    assert host.requests == ["/corpus"]


# --- simulated stories ----------------------------------------------------------------------------------


def test_without_any_host_the_corpus_is_simulated_once(host, clone, monkeypatch, capsys):
    use(monkeypatch, (refuses_connections(), ""), host.offers("/corpus", missing))
    assert find_corpus() == (corpus.SIMULATED, True)
    files = tree(clone / "data/simulated/en")
    assert len(files) == 40 + 1
    assert is_simulated(corpus.SIMULATED)
    for task in range(1, 21):
        training, test = data_utils.load_task(corpus.SIMULATED, task)
        assert (len(training), len(test)) == (5, 5)
    assert "data/simulated/en is simulated instead" in capsys.readouterr().out

    inode = (clone / "data/simulated/en").stat().st_ino
    assert find_corpus() == (corpus.SIMULATED, True)
    assert (clone / "data/simulated/en").stat().st_ino == inode
    assert "simulated instead" not in capsys.readouterr().out
    assert host.requests == ["/corpus"] * 2  # the second call tries the hosts again

    use(monkeypatch, host.offers("/corpus", sends(GOOD)))
    assert find_corpus() == (corpus.PUBLISHED, False)


def test_incomplete_simulated_folder_is_used_as_it_is(clone):
    babi_simulator.write_files(corpus.SIMULATED, [1, 2], 5, 5, 0)
    assert find_corpus() == (corpus.SIMULATED, True)
    with pytest.raises(InputError, match="task 3 has no train file"):
        data_utils.load_task(corpus.SIMULATED, 3)


def test_interrupted_simulation_leaves_nothing(clone, monkeypatch):
    def interrupted(*_):
        yield ["1 Mary went to the office."]
        raise KeyboardInterrupt

    monkeypatch.setattr(babi_simulator, "stories", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find_corpus()
    assert os.listdir(clone / "data") == []


def test_simulated_questions_are_those_of_the_simulator():
    questions = corpus.simulated_questions(2, 12)
    assert len(questions) == 12
    lines = [line for story in babi_simulator.stories(2, 12, split="test") for line in story]
    assert questions == data_utils.parse_text(lines)


def test_data_folder_that_cannot_be_written(clone):
    (clone / "data").symlink_to("nowhere")  # permissions would not stop an administrator
    with pytest.raises(InputError, match=f"^{clone}/data: File exists .*--data_dir.*[^.]\\.$"):
        find_corpus()
    (clone / "data").unlink()
    (clone / "data").write_text("a file")
    with pytest.raises(InputError, match=f"^{clone}/data: File exists .*--data_dir.*[^.]\\.$"):
        find_corpus()


def test_given_folder_is_returned_as_it_is(host, clone, monkeypatch):
    use(monkeypatch, host.offers("/corpus", sends(GOOD)))
    (clone / "folder").mkdir()
    assert find_corpus("folder") == ("folder", False)
    assert find_corpus("missing/") == ("missing/", False)
    assert find_corpus(corpus.PUBLISHED) == (corpus.PUBLISHED, False)
    assert host.requests == [] and os.listdir(clone) == ["folder"]
    (clone / "loop").symlink_to("loop")
    for folder in ("missing/", "loop", "folder"):
        with pytest.raises(InputError, match=f"^{folder}: (expected a folder|task 1 has no)"):
            data_utils.load_task(find_corpus(folder)[0], 1)


def test_simulated_folders_are_recognised(clone, monkeypatch):
    babi_simulator.main(["--task_id", "1", "--train", "5", "--test", "5", "--output_dir", "mine"])
    (clone / "link").symlink_to("mine")
    for folder in ("mine", "mine/", str(clone / "mine"), "link"):
        assert find_corpus(folder) == (folder, True)
    monkeypatch.chdir(clone / "mine")
    assert is_simulated(".")


def test_published_tree_is_not_simulated_because_of_what_is_around_it(clone):
    for folder in ("en", "en-10k"):
        (clone / "data/tasks_1-20_v1-2" / folder).mkdir(parents=True)
        (clone / "data/tasks_1-20_v1-2" / folder / "qa1_train.txt").write_text("")
    babi_simulator.write_files("data", [1], 5, 5, 0)
    babi_simulator.write_files("data/simulated/en", [1], 5, 5, 0)
    assert find_corpus() == (corpus.PUBLISHED, False)
    assert not is_simulated("data/tasks_1-20_v1-2/en-10k")
    babi_simulator.write_files(corpus.PUBLISHED, [2], 5, 5, 0)  # simulated stories among the others
    assert find_corpus() == (corpus.PUBLISHED, True)


def test_finding_an_existing_folder_imports_neither_tensorflow_nor_keras(clone):
    code = "import sys, corpus; corpus.find_corpus('.'); print({'tensorflow', 'keras'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.stdout.strip() == "set()", done.stderr
