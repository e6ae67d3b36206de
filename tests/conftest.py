"""Fixtures that several test files share: corpora, the original's numbers, a trained model."""

import ast
import gc
import os
from pathlib import Path
from typing import NamedTuple

import compare_simulator
import numpy as np
import pytest

TESTS = Path(__file__).resolve().parent

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before any test imports TensorFlow
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def pytest_collection_finish():
    """Lets garbage collections skip what the imports made; Keras collects before each training, 0.2 s without this."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def small_corpus():
    """The folder of a hand-written corpus: task 1 with 12 training and 4 test questions, task 2 with 7 and 3."""
    return TESTS / "corpus"


@pytest.fixture(scope="session")
def published():
    """The folder of the published corpus, with `en` and perhaps `en-10k`, `hn`, ... in it."""
    folder = compare_simulator.published_folder()
    if folder is None:
        pytest.skip("no published bAbI files: set BABI_DIR to the folder that holds en and en-10k")
    return folder


class Original:
    """Inputs, weights and results of the original network, see `reference/README.md`."""

    def __init__(self, name, tolerance):
        with np.load(TESTS / "reference" / f"seed_model_{name}.npz") as arrays:
            self.arrays = dict(arrays)
        self.hyperparameters = ast.literal_eval(self.arrays["hyperparameters"][()].decode())
        self.inputs = {name: self.arrays[name] for name in ("memory_key", "memory_value", "query")}
        self.answer = self.arrays["answer"]
        self.tolerance = tolerance

    def __getitem__(self, name):
        return self.arrays[name]

    def by_variable(self, kind):
        """A dict from the name of each variable to its array of a kind, such as "gradient"."""
        return {key.partition("/")[2]: array for key, array in self.arrays.items() if key.startswith(kind + "/")}


@pytest.fixture(scope="session", params=[("small", 1e-4), ("joint", 1e-3)], ids=lambda parameter: parameter[0])
def original(request):
    """The numbers of the original model, and the relative error that is allowed."""
    return Original(*request.param)


class Trained(NamedTuple):
    """What a short run of `single.py` on simulated stories of task 1 left."""

    model: str
    data_dir: str
    accuracy: str  # on the test file, as the score file has it


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A model that a person could ask about task 1, trained in seconds."""
    import babi_simulator
    import single

    folder = tmp_path_factory.mktemp("trained")
    babi_simulator.write_files(str(folder / "en"), [1], 1000, 1000, seed=0)
    log_dir = folder / "logs"
    single.main(
        [
            *("--data_dir", str(folder / "en"), "--random_state", "0", "--epochs", "60"),
            *("--output_file", str(folder / "scores.csv"), "--log_dir", str(log_dir), "--learning_rate", "0.005"),
        ]
    )
    (model,) = log_dir.glob("*/model_task1.keras")
    (row,) = (folder / "scores.csv").read_text().splitlines()[1:]
    return Trained(str(model), str(folder / "en"), row.split(",")[1])


@pytest.fixture(scope="session")
def answerer(trained):
    """An `ask.Answerer` of the trained model."""
    import ask

    return ask.Answerer(trained.model)
