"""Trains models on the workers of a Dask cluster, at an address or begun on this machine."""

import contextlib
import logging
import multiprocessing
import os
import sys

import data_utils
from flags import HERE, LOCAL, InputError, without_signals

ANSWER_SECONDS = 10  # of a scheduler
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"  # TensorFlow reads it once, and results depend on it


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
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is said in one sentence
    return distributed


def _connect(address):
    """A client of a scheduler, whose workers can import this project."""
    try:
        client = _import_distributed().Client(address, timeout=ANSWER_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--cluster {address}: no Dask scheduler answers there; expected the address that `dask scheduler` prints, "
            f"such as tcp://10.0.0.1:8786, or {LOCAL}."
        ) from error
    project = HERE
    client.register_worker_callbacks(lambda: project in sys.path or sys.path.insert(0, project))
    return client


@contextlib.contextmanager
def executor(address, workers, train, quiet=False):
    """The executor of a Dask cluster; see `experiment.executor`.

    The death of a worker is no error: Dask gives its model to another one, which continues from the saved state.

    Args:
        address: of the scheduler, or `LOCAL` for a cluster that ends with the block.
        workers: processes of a local cluster.
        train: a function from a `Job` and a function like `print` to an outcome.
        quiet: print no reports.
    """
    distributed = _import_distributed()
    options = dict(threads_per_worker=1, memory_limit=0, dashboard_address=None, silence_logs=logging.CRITICAL)
    local = without_signals(distributed.LocalCluster, n_workers=workers, **options) if address == LOCAL else None
    client = _connect(local or address)
    if not local:
        print(f"{address}: {len(client.ncores())} workers; more may join at any time", flush=True)
    pool = client.get_executor(pure=False)
    say = hush if quiet else print if local else _print_at_client

    def submit(job):
        # Models with the same questions share one copy of them, which goes from worker to worker.
        corpus = client.submit(_same, job.corpus, key=f"corpus-{data_utils.digest(job.corpus)}")
        onednn = os.environ.get(ONEDNN, "0")
        job = job._replace(corpus=None, folder=os.path.abspath(job.folder))
        return pool.submit(_train, train, job, corpus, say, onednn)

    try:
        yield submit
    except BaseException:
        for process in multiprocessing.active_children():
            process.kill()  # the state of its last saved epoch is complete
        raise
    finally:
        client.close()
        if local:
            local.close()


def _same(corpus):
    """A task, which Dask repeats if the worker with its result dies, as it does not for data that is only sent."""
    return corpus


def _train(train, job, corpus, say, onednn):
    """Trains a model on a worker."""
    from distributed import get_worker

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
            f"the Dask worker {worker.address} has computed with {ONEDNN}={os.environ.get(ONEDNN)}, not {onednn}; "
            "restart the workers between bAbI's stories and questions about films."
        )
    os.environ[ONEDNN] = onednn
    return train(job._replace(corpus=corpus), say)


def _print_at_client(*words, flush=True):
    """Prints on the worker and on the terminal of the run."""
    import distributed

    distributed.print(*words, flush=flush)


def hush(*_, **__):
    """Prints nothing."""
