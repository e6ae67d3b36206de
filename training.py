"""What `single.py` and `joint.py` share of training: flags, data, the input pipeline, the loop, scores."""

import argparse
import math
import os
import shlex
import sys
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

        from memn2n_kv import ENCODINGS, GATES, LINEAR, READERS, TYINGS, MemN2N_KV
    finally:
        os.dup2(_stderr, 2)
        os.close(_stderr)
warnings.filterwarnings("ignore", message="You are using a softmax over axis")  # a memory may have one slot
tf.get_logger().setLevel("ERROR")  # each model of a run has functions of its own; that is no mistake

NOISE_TABLE = 2**20
SLICE = 5_000  # questions of one call of TensorFlow, after which Python has a say: a fraction of a second to one
OPTIMIZERS = ("adam", "sgd")
CLIPS = ("each", "global")
NEWEST = ""  # the value of --resume where no folder is named

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


class RecipeParser(Parser):
    """Takes flags from files as well: `@FILE` stands for the flags in it, and later flags override them.

    A recipe has flags as a shell would take them, on any number of lines; `#` begins a comment. It names no other
    recipe, and every word of the command line that begins with @ is one.
    """

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else args
        expanded = []
        for arg in args:
            expanded += self.recipe(arg[1:]) if arg.startswith("@") else [arg]
        flags, unknown = super().parse_known_args(expanded, namespace)
        flags.command = shlex.join([self.prog, *args])
        if isinstance(flags.linear_start, int) and isinstance(flags.epochs, int) and flags.linear_start >= flags.epochs:
            self.error(f"--linear_start {flags.linear_start} leaves no epoch with softmax; --epochs has to be larger")
        return flags, unknown

    def recipe(self, path):
        """The flags in a recipe file."""
        flags = []
        try:
            with open(path, encoding="utf-8") as file:
                for place, line in enumerate(file, 1):
                    try:
                        flags += shlex.split(line, comments=True)
                    except ValueError as error:
                        self.error(f"{path}, line {place}: {str(error).lower()}; expected flags and their values")
                    if flags and not flags[0].startswith("--"):
                        self.error(f"{path}, line {place}: {flags[0]!r} is no flag; a recipe holds flags and values")
        except OSError as error:
            self.error(f"{path}: {error.strerror}; @ is followed by the name of a recipe")
        except UnicodeDecodeError:
            self.error(f"{path}: is not UTF-8 text; a recipe holds flags and their values")
        return flags


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
    parser = RecipeParser(description=description, formatter_class=HelpFormatter, allow_abbrev=False)
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
    add("--feature_size", type=count, help="size of keys, values and state (bow with adjacent tying: embedding_size)")
    add("--hops", type=count, default=3, help="how often the memory is read")
    add("--memory_size", type=count, help="slots of the memory at most; older statements are dropped")
    add("--mask_padding", type=boolean, default=False, help="keep empty slots out of the attention")
    add("--tying", choices=TYINGS, default="shared", help="one reading for all hops, or MemN2N's chain of readings")
    add("--gates", type=int, choices=GATES, default=0, help="gates of a hop's update: none, Gated MemN2N's, or two")
    add("--encoding", choices=ENCODINGS, default="padded", help="word positions over the padded or the true length")

    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=count, help="passes over the training questions")
    add("--batch_size", type=count, help="questions of one step")
    add("--optimizer", choices=OPTIMIZERS, default="adam", help="Adam or plain SGD")
    add("--learning_rate", type=number(float, 0, above=True), default=0.001, help="at the start")
    add("--decay_steps", type=count, help="steps after which the learning rate falls")
    add("--decay_epochs", type=count, help="the same in epochs, instead of --decay_steps")
    add("--decay_rate", type=number(float, 0, 1, above=True), default=0.96, help="what it falls by, as a factor")
    add("--linear_start", type=number(int, 0), default=0, help="first epochs without softmax, at half the rate")
    add("--linear_attention", choices=LINEAR, default="sum", help="what attention then is: scores, or scores / slots")
    add("--epsilon", type=number(float, 0, above=True), default=0.1, help="of Adam")
    add("--l2_lambda", type=number(float, 0), help="weight of half the squared norm of all variables")
    add("--max_grad_norm", type=number(float, 0, above=True), default=20.0, help="gradients are clipped to it")
    add("--clip", choices=CLIPS, default="each", help="the gradient of each variable by itself, or all as one")
    add("--gradient_noise", type=number(float, 0), default=0.001, help="standard deviation of noise on gradients")
    add("--keep_prob", type=number(float, 0, 1, above=True), default=1.0, help="share of a reading that dropout keeps")
    share = number(float, 0, 0.9)
    add("--state_dropout", type=share, default=0.0, help="share of states dropped before hops, after the linear start")
    add("--word_dropout", type=share, default=0.0, help="share of words dropped from texts, after the linear start")
    add("--time_noise", type=share, default=0.0, help="empty slots put between statements, as a share of slots")
    add("--evaluation_interval", type=count, help="epochs between two reports of accuracy")
    add("--random_state", type=number(int, 0, 2**31 - 1), help="seed; the same seed gives the same scores")
    add("--restarts", type=count, default=1, help="models from as many seeds, of which validation chooses one")
    add("--workers", type=count, help="restarts trained at once (default: as many as there are cores)")

    add = parser.add_argument_group("files").add_argument
    stamped = "" if defaults.get("output_file") else " (default: logs/scores_<unix time>.csv)"
    add("--output_file", help=f"score file, appended to where it exists{stamped}")
    if "param_output_file" in defaults:
        add("--param_output_file", help="file of NAME=value lines, one a flag (default: logs/params_<unix time>.csv)")
    add("--log_dir", default="logs", help="each run makes a folder in it for its model, scores and flags")
    add("--pictures", type=boolean, default=True, help="draw curves and scores into the run's folder")
    add("--tensorboard", type=boolean, default=False, help="write TensorBoard logs into the run's folder")
    add(
        "--resume",
        nargs="?",
        const=NEWEST,
        metavar="FOLDER",
        help="continue the run in FOLDER with the flags it was begun with; without FOLDER: the newest unfinished run "
        "in --log_dir that this script began with just these flags",
    )

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
    # Time noise makes memories longer; without room for that, the oldest statements would fall out of short ones.
    noisy = math.ceil((1 + 2 * flags.time_noise) * statements) + (4 if flags.time_noise else 0)
    memory_size = min(flags.memory_size, noisy)
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


def batches(
    examples,
    batch_size,
    seed,
    first_epoch=0,
    first_step=0,
    room=None,
    noise=None,
    time_noise=0.0,
    word_dropout=0.0,
    state_dropout=0.0,
    state_shape=None,
    dropout_from=0,
):
    """The input pipeline: shuffled batches, epoch after epoch, in which each distinct statement stands once.

    It runs beside the training step, in TensorFlow's own threads, and depends on nothing but its arguments:
    any epoch, and any step of it, can be made again from its number.

    Args:
        examples: `EncodedExamples`.
        batch_size: B; the last batch of an epoch is filled up with examples of weight 0.
        seed: of shuffling and noise.
        first_epoch: number of the first epoch.
        first_step: number of the first batch in that epoch.
        room: pad the distinct statements of each batch to this number, as XLA compiles once a shape; a
            batch that needs more is padded to the most that any can need. None to leave the number free.
        noise: (length, standard deviation) of a vector of Gaussian noise to go with each batch: a window at
            a random place of one table, as drawing each number anew would cost more than the rest of the
            step (the noise table of Salimans et al., 2017, arXiv:1703.03864, section 2.1).
        time_noise: the probability that an empty slot is put before a slot, which makes all older statements
            one slot older (random noise, MemN2N, section 4.1).
        word_dropout: the probability that a word of a statement or question becomes nil; a statement that
            stands in several slots of a batch loses the same words in all of them.
        state_dropout: the probability that a feature of the state is dropped before a hop.
        state_shape: (H, F), hops and features of the state.
        dropout_from: number of the epoch with which word and state dropout begin.

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
        told = tf.gather(slots, chosen)
        if time_noise:
            told = insert_empty_slots(told, time_noise, seed=(seed + 1, step))
        rows = tf.concat([[0], tf.reshape(told, [-1])], 0)  # the empty statement first
        distinct, place = tf.unique(rows)
        key_slots = tf.reshape(place[1:], (batch_size, memory_size))
        if room is not None:
            size = tf.size(distinct)
            distinct = tf.pad(distinct, [[0, tf.where(size <= room, room, batch_size * memory_size + 1) - size]])
        statements, questions = tf.gather(table, distinct), tf.gather(query, chosen)
        begun = tf.cast(step >= dropout_from * steps, tf.float32)
        if word_dropout:
            rate = begun * word_dropout
            statements, questions = (
                tf.where(tf.random.stateless_uniform(tf.shape(words), (seed + part, step)) < rate, 0, words)
                for part, words in ((2, statements), (3, questions))
            )
        inputs = {"statements": statements, "key_slots": key_slots, "query": questions}
        if state_dropout:
            rate = begun * state_dropout
            kept = tf.random.stateless_uniform((batch_size, *state_shape), (seed + 4, step)) >= rate
            inputs["state_mask"] = tf.cast(kept, tf.float32) / (1 - rate)
        made = (inputs, tf.gather(answer, chosen), weight)
        if noise is None:
            return made
        start = tf.random.stateless_uniform([1], (seed, step), maxval=NOISE_TABLE, dtype=tf.int32)
        return *made, tf.slice(noise_table, start, [noise[0]])

    return (
        tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
        .flat_map(epoch_batches)
        .skip(first_step)  # of rows of numbers: nothing is made of them yet
        .enumerate(first_epoch * steps + first_step)
        .map(batch, num_parallel_calls=1, deterministic=True)
        .prefetch(16)
    )


def insert_empty_slots(slots, share, seed):
    """Slots (B, M) with an empty slot put before each with probability `share`; what no longer fits is dropped."""
    batch_size, memory_size = slots.shape
    skips = tf.cast(tf.random.stateless_uniform(slots.shape, seed) < share, tf.int32)
    place = tf.minimum(tf.range(memory_size) + tf.cumsum(skips, axis=1), memory_size)
    example = tf.broadcast_to(tf.range(batch_size)[:, tf.newaxis], slots.shape)
    moved = tf.scatter_nd(tf.stack([example, place], -1), slots, (batch_size, memory_size + 1))
    return moved[:, :memory_size]


# --- training -------------------------------------------------------------------------------------------


class Rate(keras.optimizers.schedules.LearningRateSchedule):
    """A staircase: the rate falls by a factor every so many steps; it is halved during the linear start.

    Args:
        start: the rate of the first step.
        decay_steps: steps between two falls.
        decay_rate: the factor.
        linear_steps: steps of the linear start (MemN2N, section 4.2); the staircase begins after them.
    """

    def __init__(self, start, decay_steps, decay_rate, linear_steps=0):
        self.start, self.decay_steps, self.decay_rate, self.linear_steps = start, decay_steps, decay_rate, linear_steps

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        falls = keras.ops.floor(keras.ops.maximum(step - self.linear_steps, 0) / self.decay_steps)
        half = keras.ops.where(step < self.linear_steps, 0.5, 1.0)
        return self.start * half * self.decay_rate**falls

    def get_config(self):
        return vars(self)


class Diverged(InputError):
    """A number of a model in training is not finite."""


class Trainer(keras.Model):
    """Trains a network: summed cross-entropy + L2, clipping, gradient noise, an optimizer.

    All weights stand in one vector, which the network reads in parts: the optimizer then costs a few
    operations a step instead of a few for each of a dozen small variables.

    Args:
        network: a built `MemN2N_KV`.
        l2_lambda: weight of half the squared norm of all variables in the loss.
        max_grad_norm: what gradients are clipped to.
        clip: "each" to clip the gradient of each variable by itself, "global" to clip all as one.
        linear_steps: steps of the linear start.

    Attributes:
        slice_steps: the most steps of one call of TensorFlow.
        between: called between two such calls of one epoch; what it raises ends training.
    """

    def __init__(self, network, l2_lambda=0.0, max_grad_norm=20.0, clip="each", linear_steps=0, **kwargs):
        super().__init__(**kwargs)
        self.network = network
        self.l2_lambda = l2_lambda
        self.max_grad_norm = max_grad_norm
        self.clip_globally = clip == "global"
        self.linear_steps = linear_steps
        self.slice_steps, self.between = np.iinfo(np.int32).max, lambda: None
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
                self.parts(self.vector.value),
                self.network.non_trainable_variables,
                inputs,
                training=True,
                linear=self.linear(),
            )
            cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(answer, logits)
            loss = tf.reduce_sum(cross_entropy * weight)
            loss += self.l2_lambda / 2 * tf.reduce_sum(tf.square(self.vector.value))
        for variable, value in zip(self.network.non_trainable_variables, updates, strict=True):
            variable.assign(value)
        return loss, tape.gradient(loss, self.vector.value)

    def clip(self, gradient):
        """Clips the gradient of each variable by itself, or of all as one, to a norm (Pascanu et al., 2013)."""
        clipped = []
        for part in [gradient] if self.clip_globally else tf.split(gradient, self.sizes):
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
        """Keras's hook for what `fit` calls: here once an epoch, with the loop over batches inside.

        The loop is compiled, but left every `slice_steps` steps, as Python can neither take a signal nor save
        anything while TensorFlow runs. It ends at a loss that is not finite, which is `Diverged`.
        """
        if self.train_function is not None and not force:
            return
        step = tf.function(self.train_step, jit_compile=True, autograph=False) if self.jit_compile else self.train_step
        self.optimizer.build([self.vector])  # before tracing, which would else run twice

        @tf.function(autograph=False)
        def some_steps(iterator, count):
            def train(done, loss):
                return done + 1, step(next(iterator))["loss"]  # the epoch's mean so far

            return tf.while_loop(lambda done, loss: (done < count) & tf.math.is_finite(loss), train, (0, 0.0))[1]

        def epoch(iterator):
            size = self.steps_per_execution
            while True:
                done = int(self.optimizer.iterations) % size
                count = min(size - done, self.slice_steps)
                loss = some_steps(iterator, tf.constant(count))
                if not np.isfinite(loss):
                    self.fail(f"the loss is {float(loss)}", int(self.optimizer.iterations) - 1)
                if done + count == size:
                    return {"loss": loss}
                self.between()

        def in_this_thread(iterator):
            # The steps are too small to be worth handing from thread to thread: half the time is saved.
            with context.function_executor_type("SINGLE_THREADED_EXECUTOR"):
                return epoch(iterator)

        self.train_function = epoch if self.jit_compile else in_this_thread

    def fail(self, what, step):
        """Raises `Diverged` for a step, counted from 0."""
        epoch, batch = divmod(step, self.steps_per_execution)
        rate = float(self.optimizer.learning_rate)
        raise Diverged(
            f"{what} in epoch {epoch + 1}, batch {batch + 1}, at learning rate {rate:g}; "
            "start again with a lower --learning_rate or --max_grad_norm."
        )

    def linear(self):
        """Whether the linear start still lasts, as a scalar bool; None if there is none."""
        return self.optimizer.iterations.value < self.linear_steps if self.linear_steps else None

    def _logits(self, statements, key_slots, query):
        inputs = {"statements": statements, "key_slots": key_slots, "query": query}
        values = self.parts(self.vector.value), self.network.non_trainable_variables
        logits, _ = self.network.stateless_call(*values, inputs, training=False, linear=self.linear())
        return logits

    def logits_of(self, examples, batch_size=500):
        """Yields the logits (B, V) of `EncodedExamples`, some at a time."""
        for start in range(0, len(examples), batch_size):
            yield self.logits(**examples.compact(slice(start, start + batch_size)))

    def answers(self, examples, batch_size=500):
        """The label ids (N,) that the network answers to N `EncodedExamples`."""
        return np.concatenate([np.argmax(logits, axis=-1) for logits in self.logits_of(examples, batch_size)])


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
        tying=flags.tying,
        gates=flags.gates,
        encoding=flags.encoding,
        keep_prob=flags.keep_prob,
        mask_padding=flags.mask_padding,
        linear_attention=flags.linear_attention,
        vocabulary=list(corpus.vocabulary),
        tasks=corpus.tasks,
    )


def worth_compiling(flags, corpus):
    """Whether a run is long enough for XLA to save more time than compiling takes.

    Compiling takes 2 s (bow) or 5 s (GRU) on two cores; from about this many slots on, steps gain that back.
    """
    work = len(corpus.training) * flags.epochs * corpus.memory_size
    return work > (5_000_000 if flags.reader == "bow" else 1_250_000)


def train(flags, corpus, seed, callbacks=(), checkpoint=None):
    """Trains one model.

    Args:
        flags: parsed flags.
        corpus: `Corpus`.
        seed: of weights, shuffling and noise.
        callbacks: Keras callbacks; to them an epoch is one batch.
        checkpoint: a `checkpoints.Checkpoint`, the last of the callbacks, to begin where its state is and to save
            new ones.

    Returns:
        The `Trainer` with the trained weights.
    """
    keras.utils.set_random_seed(seed)
    batch_size = min(flags.batch_size, len(corpus.training))
    steps = -(-len(corpus.training) // batch_size)
    linear_steps = flags.linear_start * steps
    trainer = Trainer(build(flags, corpus), flags.l2_lambda, flags.max_grad_norm, flags.clip, linear_steps)
    decay_steps = flags.decay_epochs * steps if flags.decay_epochs else flags.decay_steps
    rate = Rate(flags.learning_rate, decay_steps, flags.decay_rate, linear_steps)
    compiled = worth_compiling(flags, corpus)
    adam = flags.optimizer == "adam"
    trainer.compile(
        optimizer=keras.optimizers.Adam(rate, epsilon=flags.epsilon) if adam else keras.optimizers.SGD(rate),
        jit_compile=compiled,
        steps_per_execution=steps,
        auto_scale_loss=False,
    )
    trainer.slice_steps = -(-SLICE // batch_size)
    begin = 0
    if checkpoint:
        callbacks = [*callbacks, checkpoint]
        trainer.optimizer.build([trainer.vector])
        begin = checkpoint.restore(trainer, steps)
        trainer.between = checkpoint.between
    first_epoch, first_step = divmod(begin, steps)
    data = batches(
        corpus.training,
        batch_size,
        seed=seed,
        first_epoch=first_epoch,
        first_step=first_step,
        room=statement_room(corpus.training, batch_size) if compiled else None,
        noise=(sum(trainer.sizes), flags.gradient_noise) if flags.gradient_noise else None,
        time_noise=flags.time_noise,
        word_dropout=flags.word_dropout,
        state_dropout=flags.state_dropout,
        state_shape=(flags.hops, trainer.network.state_size),
        dropout_from=flags.linear_start,
    )
    trainer.fit(
        data,
        steps_per_epoch=steps,
        initial_epoch=first_epoch,
        epochs=flags.epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )
    return trainer


def score(trainer, corpus):
    """Scores a trained model on all splits; the test questions are answered here and nowhere else.

    Returns:
        A list of (task, test, training, validation accuracy).
    """
    splits = [exact_match(trainer.answers(s), s) for s in (corpus.testing, corpus.training, corpus.validation)]
    return [(task, *(split[task] for split in splits)) for task in corpus.tasks]


def cross_entropy(trainer, examples):
    """The mean cross-entropy of the right answers, in nats; answers that training never saw are left out."""
    logits = np.concatenate(list(trainer.logits_of(examples)))
    known = np.flatnonzero(examples.answer != data_utils.NEVER_SEEN)
    if not len(known):
        return float("inf")
    top = logits.max(axis=1)
    partition = top + np.log(np.exp(logits - top[:, np.newaxis]).sum(axis=1))
    return float(np.mean((partition[known] - logits[known, examples.answer[known]]).astype(np.float64)))
