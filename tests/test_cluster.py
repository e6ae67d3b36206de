"""Models on a Dask cluster: the same results as without, claims, and what is refused."""

import multiprocessing
import pickle
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import kill_runs
import pytest
from helpers import refusal, run, run_folder

import cluster
import experiment
import joint
from flags import InputError

pytest.importorskip("distributed", reason="Dask is not installed: pip install -r requirements-cluster.txt")


@pytest.fixture
def small(small_corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = "--embedding_size 8 --feature_size 9 --hops 1 --batch_size 4 --epochs 60 --evaluation_interval 5"
    return f"--data_dir {small_corpus} --task_id 1,2 {sizes} --random_state 7 --restarts 2 --pictures False"


def results(place):
    """The histories, without times, and the scores of a run, by name."""
    folder = run_folder(place)
    histories = {path.name: kill_runs.without_seconds(path.read_bytes()) for path in folder.glob("history*")}
    return {**histories, "scores": (folder / "scores.csv").read_bytes()}


def test_a_cluster_of_which_a_worker_is_killed_gives_the_same_bytes(small, capfd):
    def kill_a_worker():
        while not list(Path("cluster").glob("*/state*")) and not done.wait(0.05):
            pass
        for process in multiprocessing.active_children():
            killed.append(process.pid)
            process.kill()

    done, killed = threading.Event(), []
    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    try:
        run(joint, small, "--cluster local --workers 1 --log_dir cluster")
    finally:
        done.set()
        killer.join()
    assert killed and "Traceback" not in "".join(capfd.readouterr())

    def train_here(job):
        return SimpleNamespace(result=lambda: experiment.train_model(job), done=lambda: True)

    joint.main([*small.split(), "--log_dir", "here"], submit=train_here)
    assert results("cluster") == results("here")
    assert not list(Path().glob("*/*/claim*"))


def test_the_last_claim_counts(tmp_path):
    path = str(tmp_path / "claim.txt")
    first = cluster.claim(path)
    first()
    second = cluster.claim(path)
    second()
    with pytest.raises(cluster.Superseded, match="another process trains this model"):
        first()
    cluster.write_claim(path, cluster.STOPPED)
    for call in (second, lambda: cluster.claim(path)):
        with pytest.raises(cluster.Superseded):
            call()
    (tmp_path / "claim.txt").unlink()  # its model is finished
    with pytest.raises(InputError):
        second()


def test_wrong_addresses_are_one_sentence_and_leave_no_run(small, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.2)
    assert "127.0.0.1:1: no Dask scheduler answers" in refusal(joint, small, "--cluster tcp://127.0.0.1:1")
    for address in ("elsewhere", "host:", ":x"):
        with pytest.raises(SystemExit):
            run(joint, small, f"--cluster {address}")
        assert "expected the address of a Dask scheduler" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "pip install -r requirements-cluster.txt" in refusal(joint, small, "--cluster local")
    assert not Path("logs").exists()


@pytest.mark.parametrize(
    ("threads", "folder", "environment", "message"),
    [
        (2, ".", "0", "has 2 threads; start workers with --nthreads 1"),
        (1, "missing", "0", "missing: the Dask worker tcp://w:1 has no such folder"),
        (1, ".", "other", "restart the workers"),
    ],
)
def test_workers_that_do_not_fit_are_refused(threads, folder, environment, message, monkeypatch):
    worker = SimpleNamespace(state=SimpleNamespace(nthreads=threads), address="tcp://w:1")
    monkeypatch.setattr("distributed.get_worker", lambda: worker)
    monkeypatch.setenv(cluster.ONEDNN, "0")
    monkeypatch.setitem(sys.modules, "tensorflow", sys)
    job = SimpleNamespace(folder=folder)
    with pytest.raises(InputError, match=message):
        cluster.train_on_worker(pickle.dumps((print, job, print, environment)), b"")


def test_a_stopped_run_says_how_to_continue_on_its_cluster():
    flags = SimpleNamespace(cluster="tcp://10.0.0.1:8786")
    sentence = experiment.how_to_continue(SimpleNamespace(folder="logs/joint_1"), flags)
    assert sentence.endswith("--resume logs/joint_1 --cluster tcp://10.0.0.1:8786")
