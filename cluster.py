"""Trains models on the workers of a Dask cluster, which runs at an address or is started on this machine."""

import concurrent.futures
import contextlib
import logging
import multiprocessing
import os
import pickle
import secrets
import sys

import data_utils
import files
from flags import HERE, LOCAL, InputError, without_signals

ANSWER_SECONDS = 10  # of a scheduler
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"  # TensorFlow reads it once, and results depend on it


class WorkerKilled(InputError):
    """A process that trained a model died, or the cluster did."""


def check(address):
    """The number of workers at an address, 0 for `LOCAL`; InputError if Dask is absent or no scheduler answers."""
    _import_distributed()
    if address == LOCAL:
        return 0
    with _connect(address) as client:
        return len(client.ncores())


def _import_distributed():
    try:
        import dask
        import distributed
    except ImportError as error:
        raise InputError("--cluster needs Dask; run: pip install -r requirements-cluster.txt") from error
    dask.config.set({"distributed.admin.large-graph-warning-threshold": "10GB"})  # stories are sent once
    dask.config.set({"distributed.worker.profile.enabled": False})  # it samples each thread 100 times a second
    dask.config.set({"distributed.nanny.pre-spawn-environ": {"MALLOC_TRIM_THRESHOLD_": 2**28}})  # Dask's 64 KB is slow
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are reported in one sentence
    return distributed


def _connect(address):
    """A client of a scheduler."""
    try:
        return _import_distributed().Client(address, timeout=ANSWER_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--cluster {address}: no Dask scheduler answers there; expected the address that `dask scheduler` prints, "
            f"such as tcp://10.0.0.1:8786, or {LOCAL}."
        ) from error


@contextlib.contextmanager
def executor(address, workers, train, quiet=False):
    """The executor of a Dask cluster; see `experiment.executor`.

    If a worker dies, Dask moves its model to another worker, which continues from the saved state.

    Args:
        address: of the scheduler, or `LOCAL` for a cluster that ends with the block.
        workers: processes of a local cluster.
        train: a function from a `Job` and a function like `print` to an outcome.
        quiet: print no reports.
    """
    distributed = _import_distributed()
    options = dict(threads_per_worker=1, memory_limit=0, dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL)
    local = without_signals(distributed.LocalCluster, n_workers=workers, **options) if address == LOCAL else None
    client = _connect(local or address)
    if not local:
        print(f"{address}: {len(client.ncores())} workers; more may join at any time", flush=True)
    pool = client.get_executor(pure=False)

    def start(project, *arguments):  # sent by value, with arguments as bytes: Dask cannot import our modules
        import sys

        if project not in sys.path:
            sys.path.insert(0, project)
        import cluster

        return cluster.train_on_worker(*arguments)

    say = hush if quiet else print if local else distributed.print  # on the worker and on the terminal of the run

    corpora = {}  # by digest; sent once, they go from worker to worker

    def submit(job):
        digest = data_utils.digest(job.corpus)
        if digest not in corpora:  # the result of a task, which Dask repeats if the worker with the last copy dies
            corpora[digest] = client.submit(bytes, pickle.dumps(job.corpus), pure=False)
        job = job._replace(corpus=None, folder=os.path.abspath(job.folder))
        task = pickle.dumps((train, job, say, os.environ.get(ONEDNN, "0")))
        return pool.submit(start, HERE, task, corpora[digest])

    try:
        yield submit
    except BaseException as error:
        for process in multiprocessing.active_children():
            process.kill()  # the state of its last saved epoch is complete
        if isinstance(error, distributed.KilledWorker):
            raise WorkerKilled(
                "each worker that trained one of the models died, perhaps for lack of memory."
            ) from error
        if isinstance(error, concurrent.futures.CancelledError):
            raise WorkerKilled(f"the Dask cluster {address} is gone.") from error
        raise
    finally:
        client.close()
        if local:
            local.close()


def train_on_worker(task, corpus):
    """Trains a model on a worker; called there by `executor`.

    Args:
        task: (train, job without its corpus, say, value of `ONEDNN`), pickled.
        corpus: `data_utils.Corpus`, pickled.
    """
    from distributed import get_worker

    train, job, say, onednn = pickle.loads(task)
    worker = get_worker()
    if worker.state.nthreads != 1:
        raise InputError(
            f"the Dask worker {worker.address} has {worker.state.nthreads} threads; start workers with --nthreads 1."
        )
    if not os.path.isdir(job.folder):
        raise InputError(
            f"{job.folder}: the Dask worker {worker.address} has no such folder; expected a --log_dir "
            "that all machines share."
        )
    if "tensorflow" in sys.modules and os.environ.get(ONEDNN) != onednn:
        raise InputError(
            f"the Dask worker {worker.address} already runs with {ONEDNN}={os.environ.get(ONEDNN)}, not {onednn}; "
            "restart the workers to switch between stories and films."
        )
    os.environ[ONEDNN] = onednn
    return train(job._replace(corpus=pickle.loads(corpus)), say)


def hush(*_, **__):
    """Prints nothing."""


# --- which process trains a model -----------------------------------------------------------------------

STOPPED = "stopped"  # in a claim file: nobody trains this model


class Superseded(InputError):
    """This process may not train a model: another one has claimed it, or the run has been stopped."""


def claim(path):
    """Claims a model for this process. The last claim counts: a process that trained the model before stops.

    A lock would not do: a worker that its cluster has given up may live on and hold it. The file is written in place,
    because over NFS a newly opened file shows its latest content, but a replaced file may be seen only later.

    Args:
        path: a file beside the model's state.

    Returns:
        A function without arguments that raises `Superseded` if this claim is not the last; to call before each save.

    Raises:
        Superseded: the run of the model was stopped (`write_claim`) before the model began.
    """
    token = secrets.token_hex(16)

    def check():
        if _read_claim(path) != token:
            raise Superseded(f"{path}: another process trains this model, or its run was stopped.")

    if os.path.exists(path) and _read_claim(path) == STOPPED:
        raise Superseded(f"{path}: the run was stopped.")
    write_claim(path, token)
    return check


def _read_claim(path):
    with files.saving(path), open(path, encoding="ascii") as file:
        return file.read()


def write_claim(path, content):
    """Writes the token of an owner, or `STOPPED`, into a claim file."""
    with files.saving(path), open(path, "w", encoding="ascii") as file:
        file.write(content)
