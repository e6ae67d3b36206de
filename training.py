"""Everything `single.py` and `joint.py` share: flags, data, training, scores and files.

Both scripts call `run` with the groups of tasks that go into one model each.
"""

import argparse
import csv
import fcntl
import io
import os
import sys
import time
import warnings
from typing import NamedTuple

import numpy as np

import data_utils
from babi_simulator import Parser, task_numbers
from data_utils import InputError

os.environ["KERAS_BACKEND"] = "tensorflow"  # training uses TensorFlow itself, so another backend cannot do
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # no faster on steps this small
_stderr = os.dup(2)
with open(os.devnull, "w") as _nowhere:
    # TensorFlow greets a machine without a GPU with lines that no setting stops and no user can act on.
    os.dup2(_nowhere.fileno(), 2)
    try:
        import keras
        import tensorflow as tf
        from tensorflow.python.eager import context

        from memn2n_kv import READERS, MemN2N_KV
    finally:
        os.dup2(_stderr, 2)
        os.close(_stderr)
warnings.filterwarnings("ignore", message="You are using a softmax over axis")  # a memory may have one slot
tf.get_logger().setLevel("ERROR")  # each model of a run has functions of its own; that is no mistake

SCORE_COLUMNS = ("Task", "Testing Accuracy", "Training Accuracy", "Validation Accuracy")
NOISE_TABLE = 2**20

# --- flags ----------------------------------------------------------------------------------------------


def number(kind, low, high=None, above=False):
    """An argparse type: an int or float from `low` to `high`, or above `low`."""

    def parse(text):
        value = kind(text)
        if not (value > low if above else value >= low) or not value <= (high or sys.float_info.max):
            raise argparse.ArgumentTypeError(f"{text} is not {wanted}")
        return value

    wanted = f"{'above' if above else 'at least'} {low}" + (f" and at most {high}" if high else "")
    parse.__name__ = f"number {wanted}" if kind is float else f"whole number {wanted}"  # argparse prints it
    return parse


def boolean(text):
    """An argparse type: True or False."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text} is neither True nor False")
    return text.lower() == "true"


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows each default, except where there is none."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def flag_parser(description, **defaults):
    """The flags of both scripts.

    Args:
        description: what the script does.
        **defaults: the values in which the scripts differ.

    Returns:
        An `argparse.ArgumentParser`.
    """
    parser = Parser(description=description, formatter_class=HelpFormatter, allow_abbrev=False)
    count = number(int, 1)
    group = parser.add_argument_group("data")
    add = group.add_argument
    add(
        "--data_dir",
        help=f"folder of bAbI files (default: {data_utils.PUBLISHED}, fetched, or else simulated, where it is missing)",
    )
    if "task_id" in defaults:
        add("--task_id", type=task_numbers, help="task 1 to 20, a list (3,7,9), a range (1-20) or all")
    add("--only_supporting", type=boolean, default=False, help="keep only the statements that support an answer")

    add = parser.add_argument_group("network").add_argument
    add("--reader", choices=READERS, default="bow", help="how a sentence becomes a vector")
    add("--embedding_size", type=count, help="size of a word vector")
    add("--feature_size", type=count, help="size of keys, values and the hop state")
    add("--hops", type=count, default=3, help="how often the memory is read")
    add("--memory_size", type=count, help="slots of the memory; older statements are dropped")
    add("--mask_padding", type=boolean, default=False, help="keep empty slots out of the attention")

    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=count, help="passes over the training questions")
    add("--batch_size", type=count, help="questions of one step")
    add("--learning_rate", type=number(float, 0, above=True), default=0.001, help="of Adam, at the start")
    add("--decay_steps", type=count, help="steps after which the learning rate falls by 0.96")
    add("--epsilon", type=number(float, 0, above=True), default=0.1, help="of Adam")
    add("--l2_lambda", type=number(float, 0), help="weight of half the squared norm of all variables")
    add("--max_grad_norm", type=number(float, 0, above=True), default=20.0, help="each gradient is clipped to it")
    add("--gradient_noise", type=number(float, 0), default=0.001, help="standard deviation of noise on gradients")
    add("--keep_prob", type=number(float, 0, 1, above=True), default=1.0, help="share of a reading that dropout keeps")
    add("--evaluation_interval", type=count, help="epochs between two reports of accuracy")
    add("--random_state", type=number(int, 0, 2**31 - 1), help="seed; the same seed gives the same scores")

    add = parser.add_argument_group("files").add_argument
    stamped = "" if defaults.get("output_file") else " (default: logs/scores_<unix time>.csv)"
    add("--output_file", help=f"score file, appended to where it exists{stamped}")
    if "param_output_file" in defaults:
        add("--param_output_file", help="file of NAME=value lines, one a flag (default: logs/params_<unix time>.csv)")
    add("--log_dir", default="logs", help="each run makes a folder in it for its model, scores and flags")

    add = parser.add_argument_group("machine").add_argument
    add("--allow_soft_placement", type=boolean, default=True, help="run an operation elsewhere if its device cannot")
    add("--log_device_placement", type=boolean, default=False, help="print where operations run")
    parser.set_defaults(**defaults)
    return parser


# --- data -----------------------------------------------------------------------------------------------


class Corpus(NamedTuple):
    """The examples that go into one model."""

    tasks: list
    vocabulary: dict
    sentence_size: int
    memory_size: int
    training: data_utils.EncodedExamples
    validation: data_utils.EncodedExamples
    testing: data_utils.EncodedExamples


def load(flags, tasks):
    """Reads tasks into one `Corpus`.

    The vocabulary is that of the training questions, without those split off for validation; sentence and
    memory sizes are those of training and validation. Nothing comes from the test files.
    """
    splits = {"training": {}, "validation": {}, "testing": {}}
    for task in tasks:
        training, testing = data_utils.load_task(flags.data_dir, task, flags.only_supporting)
        validation = data_utils.load_validation(flags.data_dir, task, flags.only_supporting)
        if validation is None:
            try:
                training, validation = data_utils.split_by_story(training, random_state=flags.random_state)
            except InputError as error:
                raise InputError(f"{flags.data_dir}: task {task}: {error}") from error
        for split, examples in zip(splits.values(), (training, validation, testing), strict=True):
            split[task] = examples

    known = [e for split in ("training", "validation") for t in tasks for e in splits[split][t]]
    vocabulary = data_utils.build_vocabulary(e for t in tasks for e in splits["training"][t])
    sentence_size, statements = data_utils.longest(known)
    memory_size = min(flags.memory_size, statements)
    encoded = {
        name: data_utils.encode(
            [example for examples in split.values() for example in examples],
            vocabulary,
            sentence_size,
            memory_size,
            task=np.repeat(list(split), [len(examples) for examples in split.values()]),
        )
        for name, split in splits.items()
    }
    return Corpus(list(tasks), vocabulary, sentence_size, memory_size, **encoded)


def statement_room(examples, batch_size, samples=200):
    """A number of distinct statements that one shuffled batch in a million may exceed.

    That is five standard deviations above the mean of sample batches.
    """
    random = np.random.RandomState(0)
    chosen = random.randint(len(examples), size=(samples, batch_size))
    needs = [len(np.unique(examples.slots[batch])) for batch in chosen]
    return -(-int(np.mean(needs) + 5 * np.std(needs) + 1) // 32) * 32


def batches(examples, batch_size, seed, first_epoch=0, room=None, noise=None):
    """The input pipeline: shuffled batches, epoch after epoch, in which each distinct statement stands once.

    It runs beside the training step, in TensorFlow's own threads, and depends on nothing but its arguments:
    any epoch can be made again from its number.

    Args:
        examples: `EncodedExamples`.
        batch_size: B; the last batch of an epoch is filled up with examples of weight 0.
        seed: of shuffling and noise.
        first_epoch: number of the first epoch.
        room: pad the distinct statements of each batch to this number, as XLA compiles once a shape; a
            batch that needs more is padded to the most that any can need. None to leave the number free.
        noise: (length, standard deviation) of a vector of Gaussian noise to go with each batch: a window at
            a random place of one table, as drawing each number anew would cost more than the rest of the
            step (the noise table of Salimans et al., 2017, arXiv:1703.03864, section 2.1).

    Returns:
        A `tf.data.Dataset` without end of (inputs, answer (B,), weight (B,)) and, where asked for, noise;
        inputs in the compact form of `MemN2N_KV.call`.
    """
    table, slots, query, answer = map(
        tf.constant, (examples.statements, examples.slots, examples.query, examples.answer)
    )
    if noise is not None:
        noise_table = tf.random.stateless_normal([noise[0] + NOISE_TABLE], (seed, 0), stddev=noise[1])
    steps = -(-len(examples) // batch_size)
    memory_size = slots.shape[1]

    @tf.autograph.experimental.do_not_convert  # converting takes longer than training an epoch
    def epoch_batches(epoch):
        order = tf.random.experimental.stateless_shuffle(tf.range(len(examples)), seed=(seed, epoch))
        filled = tf.pad(order, [[0, steps * batch_size - len(examples)]], constant_values=-1)
        return tf.data.Dataset.from_tensor_slices(tf.reshape(filled, (steps, batch_size)))

    @tf.autograph.experimental.do_not_convert
    def batch(step, chosen):
        weight = tf.cast(chosen >= 0, tf.float32)
        chosen = tf.maximum(chosen, 0)
        rows = tf.concat([[0], tf.reshape(tf.gather(slots, chosen), [-1])], 0)  # the empty statement first
        distinct, place = tf.unique(rows)
        key_slots = tf.reshape(place[1:], (batch_size, memory_size))
        if room is not None:
            size = tf.size(distinct)
            distinct = tf.pad(distinct, [[0, tf.where(size <= room, room, batch_size * memory_size + 1) - size]])
        inputs = {"statements": tf.gather(table, distinct), "key_slots": key_slots, "query": tf.gather(query, chosen)}
        made = (inputs, tf.gather(answer, chosen), weight)
        if noise is None:
            return made
        start = tf.random.stateless_uniform([1], (seed, step), maxval=NOISE_TABLE, dtype=tf.int32)
        return *made, tf.slice(noise_table, start, [noise[0]])

    return (
        tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
        .flat_map(epoch_batches)
        .enumerate(first_epoch * steps)
        .map(batch, num_parallel_calls=1, deterministic=True)
        .prefetch(16)
    )


# --- training -------------------------------------------------------------------------------------------


class Trainer(keras.Model):
    """Trains a network: summed cross-entropy + L2, clipping, gradient noise, an optimizer.

    All weights stand in one vector, which the network reads in parts: the optimizer then costs a few
    operations a step instead of a few for each of a dozen small variables.

    Args:
        network: a built `MemN2N_KV`.
        l2_lambda: weight of half the squared norm of all variables in the loss.
        max_grad_norm: the gradient of each variable is clipped to this norm by itself.
    """

    def __init__(self, network, l2_lambda=0.0, max_grad_norm=20.0, **kwargs):
        super().__init__(**kwargs)
        self.network = network
        self.l2_lambda = l2_lambda
        self.max_grad_norm = max_grad_norm
        self.sizes = [int(np.prod(v.shape)) for v in network.trainable_variables]
        self.vector = self.add_weight(name="vector", shape=(sum(self.sizes),), initializer="zeros")
        self.vector.assign(np.concatenate([np.ravel(v) for v in network.trainable_variables]))
        self.loss_tracker = keras.metrics.Mean(name="loss")
        words, slots = (None, network.config["sentence_size"]), (None, network.config["memory_size"])
        self.logits = tf.function(
            self._logits,
            input_signature=[tf.TensorSpec(shape, tf.int32) for shape in (words, slots, words)],
            autograph=False,
        )
        self.built = True

    def parts(self, vector):
        """The parts of a vector that belong to each trainable variable of the network, in its shape."""
        parts = tf.split(vector, self.sizes)
        return [
            tf.reshape(p, v.shape) for p, v in zip(parts, self.network.trainable_variables, strict=True)
        ]

    def finish(self):
        """Gives the network its trained weights, and returns it."""
        for variable, part in zip(
            self.network.trainable_variables, self.parts(self.vector.value), strict=True
        ):
            variable.assign(part)
        return self.network

    def loss_and_gradient(self, inputs, answer, weight):
        """The loss `sum_b weight_b CE_b + l2_lambda / 2 |vector|^2` and its gradient, before clipping."""
        with tf.GradientTape() as tape:
            logits, updates = self.network.stateless_call(
                self.parts(self.vector.value), self.network.non_trainable_variables, inputs, training=True
            )
            cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(answer, logits)
            loss = tf.reduce_sum(cross_entropy * weight)
            loss += self.l2_lambda / 2 * tf.reduce_sum(tf.square(self.vector.value))
        for variable, value in zip(self.network.non_trainable_variables, updates, strict=True):
            variable.assign(value)
        return loss, tape.gradient(loss, self.vector.value)

    def clip(self, gradient):
        """Clips the gradient of each variable to `max_grad_norm` by itself (Pascanu et al., 2013)."""
        clipped = []
        for part in tf.split(gradient, self.sizes):
            norm = tf.sqrt(tf.reduce_sum(tf.square(part)))
            clipped.append(part * (self.max_grad_norm / tf.maximum(norm, self.max_grad_norm)))
        return tf.concat(clipped, 0)

    def train_step(self, batch):
        """Keras's hook for one step: the gradient of each batch is clipped, made noisy and applied."""
        inputs, answer, weight, *noise = batch
        loss, gradient = self.loss_and_gradient(inputs, answer, weight)
        gradient = self.clip(gradient)
        for vector in noise:  # after clipping (Neelakantan et al., 2015, arXiv:1511.06807)
            gradient += vector
        self.optimizer.apply([gradient], [self.vector])
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    def make_train_function(self, force=False):
        """Keras's hook for what `fit` calls: here once an epoch, with the loop over batches inside."""
        if self.train_function is not None and not force:
            return
        step = tf.function(self.train_step, jit_compile=True, autograph=False) if self.jit_compile else self.train_step
        self.optimizer.build([self.vector])  # before tracing, which would else run twice

        def epoch(iterator):
            def train(done):
                step(next(iterator))
                return (done + 1,)

            tf.while_loop(lambda done: done < self.steps_per_execution, train, (0,))
            return {"loss": self.loss_tracker.result()}

        epoch = tf.function(epoch, autograph=False)

        def in_this_thread(iterator):
            # The steps are too small to be worth handing from thread to thread: half the time is saved.
            with context.function_executor_type("SINGLE_THREADED_EXECUTOR"):
                return epoch(iterator)

        self.train_function = epoch if self.jit_compile else in_this_thread

    def _logits(self, statements, key_slots, query):
        inputs = {"statements": statements, "key_slots": key_slots, "query": query}
        logits, _ = self.network.stateless_call(
            self.parts(self.vector.value), self.network.non_trainable_variables, inputs, training=False
        )
        return logits

    def answers(self, examples, batch_size=500):
        """The label ids (N,) that the network answers to N `EncodedExamples`."""
        found = []
        for start in range(0, len(examples), batch_size):
            some = slice(start, start + batch_size)
            rows = examples.slots[some]
            distinct, place = np.unique(np.append(0, rows), return_inverse=True)  # the empty statement first
            key_slots = place[1:].reshape(rows.shape).astype(np.int32)
            logits = self.logits(examples.statements[distinct], key_slots, examples.query[some])
            found.append(np.argmax(logits, axis=-1))
        return np.concatenate(found)


def exact_match(predicted, examples):
    """The share of right answers in each task and over all questions.

    Args:
        predicted: (N,) label ids.
        examples: the N `EncodedExamples`.

    Returns:
        A dict from task number, and from "all", to accuracy in 0..1.
    """
    right = predicted == examples.answer
    by_task = {int(task): float(np.mean(right[examples.task == task])) for task in np.unique(examples.task)}
    return {**by_task, "all": float(np.mean(right))}


# --- files ----------------------------------------------------------------------------------------------


def new_run_folder(log_dir, name):
    """Makes a folder `<name>_<unix time>[_<n>]` that no other run has, however many start at once."""
    stamp = f"{name}_{int(time.time())}"
    os.makedirs(log_dir, exist_ok=True)
    for attempt in range(1, 10_000):
        folder = os.path.join(log_dir, stamp if attempt == 1 else f"{stamp}_{attempt}")
        try:
            os.mkdir(folder)
            return folder
        except FileExistsError:
            continue
    raise InputError(f"{log_dir}: holds thousands of runs of this second already.")


def check_writable(path, flag):
    """Raises InputError unless a file can be written, or appended to, at path."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise InputError(f"{path}: the folder {folder} does not exist; make it or change {flag}.")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK) or os.path.isdir(path):
        raise InputError(f"{path}: cannot be written; change {flag}.")


def check_log_dir(log_dir):
    """Raises InputError unless log_dir is a folder to write in, or could be made in one."""
    place = log_dir if os.path.exists(log_dir) else os.path.dirname(os.path.abspath(log_dir))
    if not log_dir or not os.path.isdir(place) or not os.access(place, os.W_OK):
        raise InputError(f"{log_dir!r}: expected a folder to write in, or to make in another; change --log_dir.")


def check_score_file(path):
    """Raises InputError where an existing file at path is no score file that rows could be appended to."""
    check_writable(path, "--output_file")
    if os.path.exists(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            header = file.readline().rstrip("\r\n")
        if header and header != ",".join(SCORE_COLUMNS):
            raise InputError(f"{path}, line 1: expected {','.join(SCORE_COLUMNS)}, found another file.")


def append_scores(path, rows):
    """Appends score rows, whole and under a lock, after the header in a file that is new or empty."""
    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if size == 0:
            writer.writerow(SCORE_COLUMNS)
        elif file.seek(size - 1) and file.read(1) != b"\n":
            text.write("\n")
        writer.writerows(rows)
        file.write(text.getvalue().encode())


def append_params(path, values):
    """Writes NAME=value lines, after an empty line where the file has some of another run."""
    text = "".join(f"{name}={value}\n" for name, value in values.items())
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n" + text if file.tell() else text)


# --- runs -----------------------------------------------------------------------------------------------


class Report(keras.callbacks.Callback):
    """Says how training goes: a progress bar on a terminal, accuracies every few epochs, a history file."""

    def __init__(self, corpus, epochs, interval, history_file):
        super().__init__()
        self.corpus, self.epochs, self.interval = corpus, epochs, interval
        self.history_file = history_file
        self.bar = None
        if sys.stdout.isatty():
            self.bar = keras.utils.Progbar(epochs, unit_name="epoch", stateful_metrics=["loss"])

    def on_epoch_end(self, epoch, logs=None):
        epoch += 1
        loss = float(logs["loss"])
        if not np.isfinite(loss):
            raise InputError(f"the loss is {loss} after epoch {epoch}; lower --learning_rate or --max_grad_norm.")
        if self.bar:
            self.bar.update(epoch, [("loss", loss)])
        if epoch % self.interval and epoch != self.epochs:
            return
        training, validation = (
            exact_match(self.model.answers(examples), examples)
            for examples in (self.corpus.training, self.corpus.validation)
        )
        if self.bar and epoch != self.epochs:
            print()
        print(
            f"epoch {epoch}/{self.epochs}  loss {loss:.4f}  "
            f"training {training['all']:.4f}  validation {validation['all']:.4f}",
            flush=True,
        )
        if len(self.corpus.tasks) > 1:
            for name, scores in (("training", training), ("validation", validation)):
                print(f"  {name} by task: " + " ".join(f"{scores[t]:.2f}" for t in self.corpus.tasks))
        new = not os.path.exists(self.history_file)
        with open(self.history_file, "a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                by_task = [f"{s} {t}" for s in ("training", "validation") for t in self.corpus.tasks]
                writer.writerow(["epoch", "loss", "training", "validation", *by_task])
            by_task = [scores[t] for scores in (training, validation) for t in self.corpus.tasks]
            cells = [loss, training["all"], validation["all"], *by_task]
            writer.writerow([epoch, *(f"{cell:.4f}" for cell in cells)])


def build(flags, corpus):
    """An untrained `MemN2N_KV` for a corpus."""
    return MemN2N_KV(
        vocab_size=len(corpus.vocabulary) + 1,
        sentence_size=corpus.sentence_size,
        memory_size=corpus.memory_size,
        embedding_size=flags.embedding_size,
        feature_size=flags.feature_size,
        hops=flags.hops,
        reader=flags.reader,
        keep_prob=flags.keep_prob,
        mask_padding=flags.mask_padding,
        vocabulary=list(corpus.vocabulary),
    )


def worth_compiling(flags, corpus):
    """Whether a run is long enough for XLA to save more time than compiling takes.

    Compiling takes 2 s (bow) or 5 s (GRU) on two cores; from about this many slots on, steps gain that back.
    """
    work = len(corpus.training) * flags.epochs * corpus.memory_size
    return work > (5_000_000 if flags.reader == "bow" else 1_250_000)


def train(flags, corpus, callbacks=()):
    """Trains one model.

    Args:
        flags: parsed flags.
        corpus: `Corpus`.
        callbacks: Keras callbacks; to them an epoch is one batch.

    Returns:
        The `Trainer` with the trained weights.
    """
    keras.utils.set_random_seed(flags.random_state)
    trainer = Trainer(build(flags, corpus), flags.l2_lambda, flags.max_grad_norm)
    schedule = keras.optimizers.schedules.ExponentialDecay(
        flags.learning_rate, flags.decay_steps, decay_rate=0.96, staircase=True
    )
    batch_size = min(flags.batch_size, len(corpus.training))
    steps = -(-len(corpus.training) // batch_size)
    compiled = worth_compiling(flags, corpus)
    trainer.compile(
        optimizer=keras.optimizers.Adam(schedule, epsilon=flags.epsilon),
        jit_compile=compiled,
        steps_per_execution=steps,
        auto_scale_loss=False,
    )
    data = batches(
        corpus.training,
        batch_size,
        seed=flags.random_state,
        room=statement_room(corpus.training, batch_size) if compiled else None,
        noise=(sum(trainer.sizes), flags.gradient_noise) if flags.gradient_noise else None,
    )
    trainer.fit(
        data, steps_per_epoch=steps, epochs=flags.epochs, shuffle=False, verbose=0, callbacks=list(callbacks)
    )
    return trainer


def score(trainer, corpus):
    """Scores a trained model on all splits; the test questions are answered here and nowhere else.

    Returns:
        A list of (task, test, training, validation accuracy).
    """
    splits = [exact_match(trainer.answers(s), s) for s in (corpus.testing, corpus.training, corpus.validation)]
    return [(task, *(split[task] for split in splits)) for task in corpus.tasks]


def print_scores(rows):
    """Prints accuracies by task and what the field quotes of them: mean error and failed tasks."""
    print("task    test  training  validation")
    for task, *accuracies in rows:
        print(f"{task:4d}  " + "  ".join(f"{a:{w}.4f}" for a, w in zip(accuracies, (6, 8, 10), strict=True)))
    testing = np.array([row[1] for row in rows])
    print(
        f"mean test error {100 * (1 - testing.mean()):.2f} %, "
        f"failed tasks (error above 5 %): {np.sum(testing < 0.95)} of {len(rows)}"
    )


def say_simulated(data_dir):
    """Prints that scores of this run are no bAbI scores."""
    print(f"{data_dir}: these stories are simulated, not the published bAbI stories;")
    print("the scores of this run are marked as simulated and are no bAbI scores.", flush=True)


def run(name, flags, models):
    """Trains and scores models one after another, and writes their files.

    Args:
        name: what to call the run's folder.
        flags: parsed flags.
        models: for each model, the tasks that go into it.
    """
    tf.config.set_soft_device_placement(flags.allow_soft_placement)
    tf.debugging.set_log_device_placement(flags.log_device_placement)
    if flags.random_state is None:
        flags.random_state = int.from_bytes(os.urandom(3), "little")
    if flags.output_file:
        check_score_file(flags.output_file)
    if vars(flags).get("param_output_file"):
        check_writable(flags.param_output_file, "--param_output_file")
        if os.path.realpath(flags.param_output_file) == os.path.realpath(flags.output_file or ""):
            raise InputError(f"{flags.output_file}: cannot hold scores and flags; change --param_output_file.")
    check_log_dir(flags.log_dir)
    flags.data_dir, flags.simulated = data_utils.find_corpus(flags.data_dir)
    corpora = [load(flags, tasks) for tasks in models]
    if flags.simulated:
        say_simulated(flags.data_dir)

    folder = new_run_folder(flags.log_dir, name)
    stamp = os.path.basename(folder).partition("_")[2]
    score_file = flags.output_file or os.path.join(flags.log_dir, f"scores_{stamp}.csv")
    params = dict(sorted(vars(flags).items())) | {"score_file": score_file}
    if "task_id" in params:
        params["task_id"] = ",".join(map(str, flags.task_id))
    append_params(os.path.join(folder, "params.csv"), params)
    if "param_output_file" in params:
        append_params(flags.param_output_file or os.path.join(flags.log_dir, f"params_{stamp}.csv"), params)

    all_rows = []
    for corpus in corpora:
        which = f"task {corpus.tasks[0]}" if len(corpus.tasks) == 1 else f"tasks {corpus.tasks[0]}-{corpus.tasks[-1]}"
        print(
            f"{which}: {len(corpus.training)} training, {len(corpus.validation)} validation, "
            f"{len(corpus.testing)} test questions; {len(corpus.vocabulary)} words, "
            f"{corpus.memory_size} slots of {corpus.sentence_size} words",
            flush=True,
        )
        suffix = f"_task{corpus.tasks[0]}" if len(corpus.tasks) == 1 else ""
        history = os.path.join(folder, f"history{suffix}.csv")
        trainer = train(flags, corpus, [Report(corpus, flags.epochs, flags.evaluation_interval, history)])
        rows = score(trainer, corpus)
        trainer.finish().save(os.path.join(folder, f"model{suffix}.keras"))
        mark = " (simulated)" if flags.simulated else ""
        written = [[f"{task}{mark}", *(f"{accuracy:.4f}" for accuracy in accuracies)] for task, *accuracies in rows]
        append_scores(os.path.join(folder, "scores.csv"), written)
        try:
            append_scores(score_file, written)
        except OSError as error:
            raise InputError(f"{score_file}: {error.strerror}; the scores so far are in {folder}.") from error
        all_rows += rows
    print_scores(all_rows)
    print(f"scores in {score_file}; model, history and flags in {folder}")
    if flags.simulated:
        say_simulated(flags.data_dir)


def command(main):
    """Runs a script's `main()`: a person's mistake ends in one sentence and status 2, a bug in its traceback."""
    try:
        main()
    except InputError as error:
        print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{os.path.basename(sys.argv[0])}: interrupted; finished models are saved.", file=sys.stderr)
        sys.exit(130)
