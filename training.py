"""Trains a network: loss, clipping, learning-rate schedule, linear start, the loop, accuracy."""

import contextlib
import ctypes
import functools
import os
import random
import time
import warnings

import numpy as np

import data_utils
import scores
from checkpoint import Diverged
from flags import UNUSED, quiet_import

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # not faster on steps this small
with quiet_import():
    import keras
    import tensorflow as tf
    from keras.src.random import seed_generator
    from tensorflow.python.eager import context

    from input_pipeline import Focus, batches, rooms_of_batches
    from memn2n_kv import MemN2N_KV, TwoReaders
warnings.filterwarnings("ignore", message="You are using a softmax over axis")  # a memory may have one slot
tf.get_logger().setLevel("ERROR")  # retracing is expected: each model traces its own functions


LARGEST_LOGITS = 4_000_000  # numbers in the logits of one batch
SURE = 0.9  # probability of the right answer below which the model is unsure
SHORT_PHASE = 3_000  # steps of a linear end that take less time than compiling it


def set_up_devices(threads=None, allow_soft_placement=True, log_device_placement=False):
    """Configures TensorFlow before it computes anything.

    Args:
        threads: threads of one operation; None for one per core.
        allow_soft_placement: run an operation elsewhere if its device cannot.
        log_device_placement: print where operations run.

    Returns:
        A line that names the devices in use.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it
    if mallopt:  # keep freed memory: otherwise each step requests its memory from the system again, page by page
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, the largest that glibc takes
        mallopt(-1, 2**28)  # M_TRIM_THRESHOLD
    if threads:
        with contextlib.suppress(RuntimeError):  # this process has computed something before: its number stays
            tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.set_soft_device_placement(allow_soft_placement)
    tf.debugging.set_log_device_placement(log_device_placement)
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    unusable = not gpus and os.path.exists("/dev/nvidia0")
    hint = "; TensorFlow cannot use this machine's NVIDIA GPU (see tensorflow.org/install/pip)" if unusable else ""
    return f"device: {', '.join(gpu.name for gpu in gpus) or 'CPU'}{hint}"


# --- training -------------------------------------------------------------------------------------------


class Rate(keras.optimizers.schedules.LearningRateSchedule):
    """A staircase: the rate decays by a factor every so many steps; it is halved during the linear start.

    Args:
        initial_rate: the rate of the first step after the linear start.
        decay_steps: steps between two decays.
        decay_rate: the decay factor.
        linear_steps: steps of the linear start (MemN2N, section 4.2).
        linear_end_steps: steps of its end, at the full rate; the staircase begins after them.
    """

    def __init__(self, initial_rate, decay_steps, decay_rate, linear_steps=0, linear_end_steps=0):
        self.initial_rate, self.decay_steps, self.decay_rate = initial_rate, decay_steps, decay_rate
        self.linear_steps, self.linear_end_steps = linear_steps, linear_end_steps

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        first = self.linear_steps + self.linear_end_steps  # step of the staircase
        decays = keras.ops.floor(keras.ops.maximum(step - first, 0) / self.decay_steps)
        half = keras.ops.where(step < self.linear_steps, 0.5, 1.0)
        return self.initial_rate * half * self.decay_rate**decays

    def get_config(self):
        return vars(self)


PHASES = ("linear start", "linear end", "rest")  # compiled separately, each without what it does not use


class Trainer(keras.Model):
    """Trains a network: summed cross-entropy + L2, clipping, gradient noise, an optimizer.

    All weights are one vector, which the network reads in parts: the optimizer then costs a few operations per step
    instead of a few for each of a dozen small variables.

    Args:
        network: a built `MemN2N_KV`; it holds the trained weights after each epoch.
        l2_lambda: weight of half the squared norm of all variables in the loss.
        max_grad_norm: norm to which gradients are clipped.
        clip: "each" to clip per variable, "global" to clip by global norm.
        linear_steps: steps of the linear start.
        linear_end_steps: steps after the linear start over which the share of linear attention falls to 0.
        questions: N, to record which of N questions (`inputs["questions"]`) the network is unsure of; 0 for none.
    """

    def __init__(
        self,
        network,
        l2_lambda=0.0,
        max_grad_norm=20.0,
        clip="each",
        linear_steps=0,
        linear_end_steps=0,
        questions=0,
    ):
        super().__init__()
        self.network = network
        self.unsure = tf.Variable([False] * (questions + 1)) if questions else None
        self.l2_lambda = l2_lambda
        self.max_grad_norm = max_grad_norm
        self.clip_globally = clip == "global"
        self.linear_steps, self.linear_end_steps = linear_steps, linear_end_steps
        self.sizes = [int(np.prod(v.shape)) for v in network.trainable_variables]
        self.vector = self.add_weight(name="vector", shape=(sum(self.sizes),), initializer="zeros")
        self.vector.assign(np.concatenate([np.ravel(v) for v in network.trainable_variables]))
        self.loss_tracker = keras.metrics.Mean(name="loss")
        words, slots = (None, network.config["sentence_size"]), (None, data_utils.ROW_SIZE)
        shapes = {"statements": words, "key_slots": slots, "occupied_rows": (None,), "query": words}
        if network.config["entities"] is not None:  # whose bags have no fixed size
            bags = (None, None)
            shapes |= {"statements": bags, "query": bags, "value_statements": bags, "value_slots": slots}
        signature = {name: tf.TensorSpec(shape, tf.int32) for name, shape in shapes.items()}
        self.logits_programs = {
            phase: tf.function(functools.partial(self._logits, phase), input_signature=[signature], autograph=False)
            for phase in PHASES
        }
        self.built = True

    def parts(self, vector):
        """The parts of a vector that belong to the trainable variables of the network, each in its variable's shape."""
        variables = self.network.trainable_variables
        parts = tf.split(vector, self.sizes)
        return [tf.reshape(part, variable.shape) for part, variable in zip(parts, variables, strict=True)]

    def begin_again(self, network):
        """Takes the weights of an untrained network that is like its own, for a model that differs only by its seed.

        What was traced and compiled stays: for two readers, that saves about a minute per model.
        """
        for variable in self._state_variables().values():
            variable.assign(tf.zeros_like(variable))
        self.vector.assign(np.concatenate([np.ravel(v) for v in network.trainable_variables]))
        own, others = self.network.non_trainable_variables, network.non_trainable_variables
        for variable, other in zip(own, others, strict=True):
            variable.assign(other)
        self.update_network()

    def update_network(self):
        """Copies the trained weights into the network."""
        for variable, part in zip(self.network.trainable_variables, self.parts(self.vector.value), strict=True):
            variable.assign(part)

    def loss_and_gradient(self, inputs, answer, weight, phase="rest"):
        """The loss `sum_b weight_b CE_b + l2_lambda / 2 |vector|^2` and its gradient, before clipping."""
        with tf.GradientTape() as tape:
            logits, updates = self.network.stateless_call(
                self.parts(self.vector.value),
                self.network.non_trainable_variables,
                inputs,
                training=True,
                linear=self.linear(phase),
            )
            answer = tf.broadcast_to(answer, tf.shape(logits)[:-1])  # `TwoReaders` has two rows of logits
            cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(answer, logits)
            loss = tf.reduce_sum(cross_entropy * weight)
            if self.l2_lambda:
                loss += self.l2_lambda / 2 * tf.reduce_sum(tf.square(self.vector.value))
        for variable, value in zip(self.network.non_trainable_variables, updates, strict=True):
            variable.assign(value)
        if self.unsure is not None:
            probability = tf.exp(-cross_entropy)
            probability = tf.reduce_mean(tf.reshape(probability, (-1, probability.shape[-1])), axis=0)  # (B,)
            self.unsure.scatter_update(tf.IndexedSlices(probability < SURE, inputs["questions"]))
        return loss, tape.gradient(loss, self.vector.value)

    def clip(self, gradient):
        """Clips the gradient per variable or by global norm (Pascanu et al., 2013, arXiv:1211.5063)."""
        clipped = []
        for part in [gradient] if self.clip_globally else tf.split(gradient, self.sizes):
            norm = tf.sqrt(tf.reduce_sum(tf.square(part)))
            clipped.append(part * (self.max_grad_norm / tf.maximum(norm, self.max_grad_norm)))
        return tf.concat(clipped, 0)

    def train_step(self, batch, phase="rest"):
        """Keras's hook for one step: clips the gradient of a batch, adds noise and applies it."""
        inputs, answer, weight, *noise = batch
        loss, gradient = self.loss_and_gradient(inputs, answer, weight, phase)
        gradient = self.clip(gradient)
        for vector in noise:  # after clipping (Neelakantan et al., 2015, arXiv:1511.06807)
            gradient += vector
        self.optimizer.apply([gradient], [self.vector])
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    def make_train_function(self, force=False):
        """Keras's hook for what `fit` calls: here once per epoch, with the loop over batches inside TensorFlow.

        The loop ends early at a loss that is not finite, which raises `Diverged`.
        """
        if self.train_function is not None and not force:
            return
        self.optimizer.build([self.vector])  # before tracing; otherwise TensorFlow traces twice

        def compiles(phase):
            return self.jit_compile and not (phase == "linear end" and self.linear_end_steps < SHORT_PHASE)

        def steps_of_epoch(phase, iterator):
            step = functools.partial(self.train_step, phase=phase)
            if compiles(phase):
                step = tf.function(step, jit_compile=True, autograph=False)

            def train(done, loss):
                return done + 1, step(next(iterator))["loss"]  # the epoch's mean so far

            def unfinished(done, loss):
                return (done < self.steps_per_execution) & tf.math.is_finite(loss)

            return tf.while_loop(unfinished, train, (0, 0.0))[1]

        programs = {phase: tf.function(functools.partial(steps_of_epoch, phase), autograph=False) for phase in PHASES}

        def epoch(iterator):
            phase = self.phase(int(self.optimizer.iterations))
            program = programs[phase]
            if compiles(phase):
                loss = program(iterator)
            else:  # steps are too small to be worth handing from thread to thread: this halves the time
                with context.function_executor_type("SINGLE_THREADED_EXECUTOR"):
                    loss = program(iterator)
            if not np.isfinite(loss):
                self.fail(f"the loss is {float(loss)}")
            self.update_network()
            return {"loss": loss}

        self.train_function = epoch

    def fail(self, problem):
        """Raises `Diverged` for the last step."""
        epoch, batch = divmod(int(self.optimizer.iterations) - 1, self.steps_per_execution)
        raise Diverged(
            f"{problem} in epoch {epoch + 1}, batch {batch + 1}, at learning rate "
            f"{float(self.optimizer.learning_rate):g}; start again with a lower --learning_rate, --max_grad_norm, "
            "--gradient_noise or --l2_lambda."
        )

    def phase(self, step):
        """Which of `PHASES` a step belongs to."""
        if step < self.linear_steps:
            return "linear start"
        return "linear end" if step < self.linear_steps + self.linear_end_steps else "rest"

    def linear(self, phase):
        """The share of the linear attention in a phase, for `MemN2N_KV.call`."""
        if phase == "linear end":
            return 1 - tf.cast(self.optimizer.iterations.value - self.linear_steps, tf.float32) / self.linear_end_steps
        return phase == "linear start"

    def _state_variables(self):
        """All variables on which the next epoch depends, by name; Keras's own names depend on the process."""
        groups = {
            "trainer": [self.vector],
            "optimizer": self.optimizer.variables,
            "network": self.network.non_trainable_variables,
            "unsure": [] if self.unsure is None else [self.unsure],
        }
        return {f"{group}/{i}": variable for group, members in groups.items() for i, variable in enumerate(members)}

    def state(self):
        """The state of training at the end of an epoch, a dict of arrays: weights, optimizer, dropout, `unsure`.

        Raises:
            Diverged: a number is not finite.
        """
        arrays = {name: variable.numpy() for name, variable in self._state_variables().items()}
        if not all(np.isfinite(array).all() for array in arrays.values()):
            self.fail("a weight is not finite")
        return arrays

    def set_state(self, arrays):
        """Restores what `state` returned for the same network and optimizer."""
        for name, variable in self._state_variables().items():
            variable.assign(arrays[name])
        self.update_network()

    def _logits(self, phase, inputs):
        values = self.parts(self.vector.value), self.network.non_trainable_variables
        logits, _ = self.network.stateless_call(*values, inputs, training=False, linear=self.linear(phase))
        return logits

    def logits(self, inputs):
        """Logits (B, V) for compact inputs, in the phase of the last step."""
        steps = int(self.optimizer.iterations) if self.compiled else 0
        return self.logits_programs[self.phase(max(steps - 1, 0))](inputs)

    def logits_of(self, examples, batch_size=500):
        """Yields the logits (B, V) of `EncodedExamples`, a batch at a time; a smaller one if there are entities."""
        batch_size = min(batch_size, max(1, LARGEST_LOGITS // (1 + examples.entities)))
        for start in range(0, len(examples), batch_size):
            yield self.logits(examples.compact(slice(start, start + batch_size)))

    def answers(self, examples, batch_size=500):
        """The predicted label ids (N,) of N `EncodedExamples`."""
        return np.concatenate([np.argmax(logits, axis=-1) for logits in self.logits_of(examples, batch_size)])


def build(flags, corpus):
    """An untrained `MemN2N_KV` or `TwoReaders` for a `data_utils.Corpus`."""
    names = ("embedding_size", "feature_size", "hops", "reader", "tying", "gates", "encoding", "keep_prob")
    names += ("mask_padding", "linear_attention", "attention", "pairs", "inner_hops")
    options = {name: getattr(flags, name) for name in names}
    if corpus.entities:
        options |= {"entities": corpus.entities, "slot_times": False, "answer": flags.answer}
    network_class = MemN2N_KV
    if flags.reader == "both":
        network_class = TwoReaders
        del options["reader"]
    return network_class(
        vocab_size=len(corpus.vocabulary) + 1,
        sentence_size=corpus.sentence_size,
        memory_size=corpus.memory_size,
        vocabulary=list(corpus.vocabulary),
        tasks=corpus.tasks,
        **{name: value for name, value in options.items() if value != UNUSED},
    )


def train(flags, corpus, seed, jit_compile=False, callbacks=(), first_epoch=0, state=None, trainer=None):
    """Trains one model.

    Args:
        flags: parsed flags.
        corpus: `data_utils.Corpus`.
        seed: seed of weights, shuffling and noise.
        jit_compile: compile steps with XLA.
        callbacks: Keras callbacks.
        first_epoch: number of epochs that are done.
        state: what `Trainer.state` returned after them; None to begin.
        trainer: what a call with the same flags, corpus and `jit_compile` returned, to be used again.

    Returns:
        The `Trainer`, whose `network` has the trained weights.

    Raises:
        Diverged: a number is not finite.
    """
    keras.backend.clear_session()  # layers have the same names, whatever this process trained before
    keras.utils.set_random_seed(seed)
    seed_generator.python_random = random.Random(seed)  # the same seed, but no other thread draws from this one
    batch_size = min(flags.batch_size, len(corpus.training))
    steps = -(-len(corpus.training) // batch_size)
    linear = dict(linear_steps=flags.linear_start * steps, linear_end_steps=flags.linear_end * steps)
    network = build(flags, corpus)
    if trainer:
        trainer.begin_again(network)
    else:
        questions = len(corpus.training) if flags.focus else 0
        trainer = Trainer(network, flags.l2_lambda, flags.max_grad_norm, flags.clip, questions=questions, **linear)
        decay_steps = flags.decay_epochs * steps if flags.decay_epochs else flags.decay_steps
        rate = Rate(flags.learning_rate, decay_steps, flags.decay_rate, **linear)
        adam = flags.optimizer == "adam"
        trainer.compile(
            optimizer=keras.optimizers.Adam(rate, epsilon=flags.epsilon) if adam else keras.optimizers.SGD(rate),
            jit_compile=jit_compile,
            steps_per_execution=steps,
            auto_scale_loss=False,
        )
    if state is not None:
        trainer.optimizer.build([trainer.vector])
        trainer.set_state(state)
    prefixes = flags.reader != "bow" and flags.tying == "adjacent" and not flags.word_dropout
    data = batches(
        corpus.training,
        batch_size,
        seed=seed,
        first_epoch=first_epoch,
        rooms=rooms_of_batches(corpus.training, batch_size, time_noise=flags.time_noise, prefixes=prefixes)
        if jit_compile
        else None,
        gradient_noise=(sum(trainer.sizes), flags.gradient_noise) if flags.gradient_noise else None,
        time_noise=flags.time_noise,
        word_dropout=flags.word_dropout,
        state_dropout=flags.state_dropout,
        state_shape=network.state_shape,
        dropout_from=flags.linear_start,
        occupied_only=flags.mask_padding or jit_compile,
        word_places=flags.reader != "simple_gru",
        prefixes=prefixes,
        focus=Focus(flags.focus, trainer.unsure, trainer.optimizer.iterations.value) if flags.focus else None,
    )
    trainer.fit(
        data,
        steps_per_epoch=None if flags.focus else steps,  # with focus, each epoch has its own iterator
        initial_epoch=first_epoch,
        epochs=flags.epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )
    return trainer


class Report(keras.callbacks.Callback):
    """Reports the loss of every epoch, and accuracies every `--evaluation_interval` epochs and after the last.

    Accuracies of the linear start and of its end are marked, and never count as best, as the saved network has the
    attention of the later epochs. Among equals, the first report on validation is the best.

    Args:
        flags: parsed flags.
        corpus: `data_utils.Corpus`.
        heading: starts each line; accuracies by task are printed only if it is empty.
        progress_bar: show one.
        say: prints lines about a report, as `print` does.

    Attributes:
        rows: a list of cells for each epoch: epoch, loss and, at a report, training and validation accuracy, then both
            by task, and for each epoch its learning rate and its seconds of training; see `columns`.
        reported: whether the last epoch had a report.
        best: the weights of the best report, a vector, if they are to be kept.
    """

    def __init__(self, flags, corpus, heading="", progress_bar=False, say=print):
        super().__init__()
        self.flags, self.corpus, self.heading, self.say = flags, corpus, heading, say
        self.marks = ["  (linear start)"] * flags.linear_start + ["  (linear end)"] * flags.linear_end  # by epoch
        self.columns = scores.history_columns(corpus.tasks)
        self.rows, self.reported, self.best = [], False, None
        bar = dict(unit_name="epoch", stateful_metrics=["loss"])
        self.bar = keras.utils.Progbar(flags.epochs, **bar) if progress_bar else None

    def best_report(self):
        """(row of the best report on validation, number of reports since); (None, 0) before the first that counts."""
        reports = [row for row in self.rows[len(self.marks) :] if row[3]]
        best = max(reports, key=lambda row: float(row[3]), default=None)
        return best, len(reports) - 1 - reports.index(best) if best else 0

    def out_of_patience(self):
        """Whether training ends before its last epoch, as validation no longer improves."""
        return 0 < self.flags.patience <= self.best_report()[1]

    def on_epoch_begin(self, epoch, logs=None):
        self.rate, self.begin = float(self.model.optimizer.learning_rate), time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        end = [f"{self.rate:.6g}", f"{time.monotonic() - self.begin:.4f}"]
        epoch += 1
        loss = float(logs["loss"])
        if self.bar:
            self.bar.update(epoch, [("loss", loss)])
        self.reported = epoch % self.flags.evaluation_interval == 0 or epoch == self.flags.epochs
        if not self.reported:
            self.rows.append([str(epoch), f"{loss:.4f}", *[""] * (len(self.columns) - 4), *end])
            return
        training, validation = (
            exact_match(self.model.answers(examples), examples)
            for examples in (self.corpus.training, self.corpus.validation)
        )
        logs.update(training=training["all"], validation=validation["all"])  # for the callbacks after this one
        for split, accuracies in (("training", training), ("validation", validation)):
            logs.update({f"{split}/{task}": accuracies[task] for task in self.corpus.tasks})
        if self.bar and epoch != self.flags.epochs:
            print()
        self.say(
            f"{self.heading}epoch {epoch}/{self.flags.epochs}  loss {loss:.4f}  "
            f"training {training['all']:.4f}  validation {validation['all']:.4f}"
            + "".join(self.marks[epoch - 1 : epoch]),
            flush=True,
        )
        tasks = self.corpus.tasks
        if len(tasks) > 1 and not self.heading and not self.corpus.entities:
            for start in range(0, len(tasks), 10):  # two lines of ten tasks fit a terminal
                shown = tasks[start : start + 10]
                self.say("  task        " + " ".join(f"{task:5d}" for task in shown))
                for name, accuracies in (("training", training), ("validation", validation)):
                    self.say(f"  {name:<12}" + " ".join(f"{accuracies[task]:5.2f}" for task in shown))
        cells = [loss, training["all"], validation["all"]]
        cells += [accuracies[task] for accuracies in (training, validation) for task in tasks]
        self.rows.append([str(epoch), *(f"{cell:.4f}" for cell in cells), *end])
        if self.flags.keep == "best" and self.best_report()[0] is self.rows[-1]:
            self.best = self.model.vector.numpy()
        self.model.stop_training = self.out_of_patience()

    def on_train_end(self, logs=None):
        best, since = self.best_report()
        if self.out_of_patience():
            self.say(f"{self.heading}training ended: {since} reports without a better validation accuracy", flush=True)
        if self.flags.keep == "best":
            self.model.vector.assign(self.best)
            self.model.update_network()
            self.say(f"{self.heading}kept: epoch {best[0]}  validation {best[3]}", flush=True)


def tensorboard(folder, hyperparameters):
    """Keras callbacks that write TensorBoard logs.

    Args:
        folder: for the logs: loss and learning rate, accuracies of reports by task.
        hyperparameters: a dict from name to number or text, for TensorBoard's table of runs.
    """
    from tensorboard.plugins.hparams import api

    return [keras.callbacks.TensorBoard(folder, write_graph=False), api.KerasCallback(folder, hyperparameters)]


# --- accuracy -------------------------------------------------------------------------------------------


def exact_match(predicted, examples):
    """The share of questions with a right answer, in each task and over all questions.

    Args:
        predicted: (N,) label ids.
        examples: the N `EncodedExamples`.

    Returns:
        A dict from task number, and from "all", to accuracy in 0..1.
    """
    right = (predicted[:, np.newaxis] == examples.right_answers()).any(axis=1)
    by_task = {task.item(): float(np.mean(right[examples.task == task])) for task in np.unique(examples.task)}
    return {**by_task, "all": float(np.mean(right))}


def score(trainer, corpus):
    """Scores a trained model on all splits; the only place where test questions are answered.

    Returns:
        A list of (task, test, training, validation accuracy).
    """
    splits = [exact_match(trainer.answers(s), s) for s in (corpus.testing, corpus.training, corpus.validation)]
    return [(task, *(split[task] for split in splits)) for task in corpus.tasks]


def mean_cross_entropy(trainer, examples):
    """The mean cross-entropy of the right answers, in nats; answers that training never saw are left out.

    Of several right answers, the likeliest counts.
    """
    losses, answers = [], examples.right_answers()
    for logits in trainer.logits_of(examples):
        log_probabilities, right = tf.nn.log_softmax(logits).numpy(), answers[: len(logits)]
        answers = answers[len(logits) :]
        of_right = np.take_along_axis(log_probabilities, right, axis=1)
        losses.append(-np.where(right == data_utils.NEVER_SEEN, -np.inf, of_right).max(axis=1))
    losses = np.concatenate(losses).astype(np.float64)
    known = np.isfinite(losses)
    return float(np.mean(losses[known])) if known.any() else float("inf")
