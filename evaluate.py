"""Scores saved models and their ensemble; writes predictions question by question, and confusion tables.

    python evaluate.py                                             # the shipped model, on bAbI's test questions
    python evaluate.py --model logs/joint_1795388665/model_seed*.keras    # several models, and their ensemble
    python evaluate.py --predictions predictions.csv --confusion          # where and how it is wrong

A model answers questions of the tasks it was trained on. The probabilities of an ensemble are the means over its
models, word by word.
"""

import argparse
import ast
import importlib.util
import os
from typing import NamedTuple

import numpy as np

import checkpoint
import corpus
import data_utils
import files
import plots
import scores
from ask import DEFAULT_MODEL, load_network, probabilities_of
from flags import KINDS, TASK_NAMES, TASKS, InputError, Parser, folder, output_path, run_command, task_numbers

FILES = {"test": "test", "training": "train", "validation": "valid"}  # by split: how the name of a task's file ends
PREDICTION_COLUMNS = ("task", "story", "line", "question", "answer", "prediction", "right", "probability")
PREDICTION_COLUMNS += ("answer probability",)
BATCH_SIZE = 500  # as in training, so that not even rounding differs


class Query(NamedTuple):
    """A question of one split."""

    task: int | str
    story: int | str  # its number in the file, counted from 1; "" for films
    line: int | str  # likewise
    text: str
    answers: tuple  # of str, all of them right


class Model(NamedTuple):
    """A model with the questions as it reads them."""

    trainer: object  # `training.Trainer`
    examples: data_utils.EncodedExamples
    knows: np.ndarray  # (N,), whether the model was trained on the task of each question
    words: tuple  # the V answers, in the order of its logits


class Predictions(NamedTuple):
    """Answers to N questions, as numbers of words."""

    words: list
    models: np.ndarray  # (models, N), the answers of each model; -1 where it does not know the task
    ensemble: np.ndarray  # (N,)
    probability: np.ndarray  # (N,), of the ensemble's answer
    answer_probability: np.ndarray  # (N,), of the right answer; of several the likeliest


# --- models and questions -------------------------------------------------------------------------------


def settings_of(model):
    """The flags of the run that made a model, a dict: from run.json beside it, or NAME.params.csv; else empty."""
    place, params = os.path.dirname(model), f"{os.path.splitext(model)[0]}.params.csv"
    if os.path.exists(os.path.join(place, checkpoint.RECORD)):
        return checkpoint.read_record(place)["flags"]
    if not os.path.exists(params):
        return {}

    def value(text):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text

    return {name: value(text) for name, text in scores.read_params(params).items()}


def read_questions(data_dir, task, split, random_state):
    """The `data_utils.Question`s of one split of a task, in the order of a run's corpus.

    `random_state` is the seed of the split into training and validation; None if unknown.

    Raises:
        InputError: a file cannot be used, or the seed is needed and unknown.
    """
    is_divided = split != "test" and data_utils.task_file(data_dir, task, "valid") is None
    file = data_utils.task_file(data_dir, task, "train" if is_divided else FILES[split], required=True)
    questions = data_utils.parse_text(data_utils.read_lines(file), file)
    if not is_divided:
        return questions
    if random_state is None:
        raise InputError(
            f"--split {split}: run.json or params.csv of the model's run must lie beside the model, because they hold "
            "the seed of the split; --split test needs none."
        )
    return data_utils.split_by_story(questions, random_state=random_state)[split == "validation"]


def load_stories(paths, networks, settings, data_dir, task_ids, split):
    """(a list of `Query`, a list of `Model`) for models of bAbI's stories; see `load`."""
    import training

    trained_on = [network.config.get("tasks") or list(TASKS) for network in networks]
    tasks = task_ids or sorted({task for tasks in trained_on for task in tasks})
    for task in tasks:
        if not any(task in known for known in trained_on):
            raise InputError(f"--task_id {task}: {', '.join(paths)}: not trained on this task.")
    seeds = {flags.get("random_state") for flags in settings}
    if split != "test" and len(seeds) > 1:
        raise InputError(
            f"--split {split}: the models differ in --random_state ({', '.join(map(str, seeds))}), so validation "
            "questions of one are training questions of another; expected models of one split, or --split test."
        )
    questions = [(task, q) for task in tasks for q in read_questions(data_dir, task, split, min(seeds, key=str))]

    models = []
    for network, flags, known in zip(networks, settings, trained_on, strict=True):
        words = ("<NIL>", *network.config["vocabulary"])
        numbers = {word: number for number, word in enumerate(words) if number > 0}
        sizes = network.config["sentence_size"], network.config["memory_size"]
        examples = [q.only_supporting() if flags.get("only_supporting") else q for _, q in questions]
        knows = np.array([task in known for task, _ in questions])
        models.append(Model(training.Trainer(network), data_utils.encode(examples, numbers, *sizes), knows, words))
    queries = [Query(task, q.story + 1, q.line, q.question, (q.answer,)) for task, q in questions]
    return queries, models


def load_films(paths, networks, settings, data_dir, task_ids, split):
    """(a list of `Query`, a list of `Model`) for models of questions about films; see `load`."""
    import experiment
    import movie_utils
    import training

    if task_ids:
        raise InputError("--task_id: questions about films have no task numbers.")
    models = []
    for name, network, flags in zip(paths, networks, settings, strict=True):
        if "question_hops" not in flags:
            raise InputError(f"{name}: run.json or params.csv of the model's run must lie beside it.")
        films = experiment.load_films(argparse.Namespace(**{"text": None, **flags, "data_dir": data_dir}))
        if list(films.vocabulary) != network.config["vocabulary"]:
            raise InputError(
                f"{data_dir}: its words differ from those that {name} was trained on; expected the "
                "folder that the model was trained on as --data_dir."
            )
        network.set_entities(films.entities)
        examples = {"test": films.testing, "training": films.training, "validation": films.validation}[split]
        words = ("(nothing)", *films.entities)
        models.append(Model(training.Trainer(network), examples, np.full(len(examples), True), words))
    films = movie_utils.load(data_dir, flags["question_hops"])
    questions = {"test": films.testing, "training": films.training, "validation": films.validation}[split]
    names = films.kb.names
    queries = [Query(q.kind, "", "", q.text, tuple(names[i - 1] for i in q.answers)) for q in questions]
    if any(len(model.knows) != len(queries) for model in models):
        raise InputError("the models were trained on different questions (--question_hops); evaluate them one by one.")
    return queries, models


def load(paths, data_dir, task_ids, split):
    """Loads models, and the questions of one split.

    Args:
        paths: model files.
        data_dir: a folder of questions; None for that of the run that made the first model, or else to find one.
        task_ids: task numbers; None for those of the models.
        split: "test", "training" or "validation".

    Returns:
        (a list of `Query`, a list of `Model`, the folder, whether its content is simulated).

    Raises:
        InputError: a file cannot be used, or models and questions do not fit each other.
    """
    networks, settings = [load_network(name) for name in paths], [settings_of(name) for name in paths]
    kinds = {network.config["entities"] is None for network in networks}
    if len(kinds) > 1:
        raise InputError("--model: some answer questions about stories, others about films; evaluate each kind alone.")
    about_stories = kinds.pop()
    find = corpus.find_corpus if about_stories else corpus.find_films
    data_dir, simulated = find(data_dir or settings[0].get("data_dir"))
    load_kind = load_stories if about_stories else load_films
    queries, models = load_kind(paths, networks, settings, data_dir, task_ids, split)
    return queries, models, data_dir, simulated


# --- predictions ----------------------------------------------------------------------------------------


def predict(queries, models):
    """The `Predictions` of models and of their ensemble."""
    import training

    number_of = {}
    for model in models:
        for word in model.words:
            number_of.setdefault(word, len(number_of))
    columns = [np.array([number_of[word] for word in model.words]) for model in models]
    count = len(queries)
    by_model = np.full((len(models), count), -1)
    ensemble, probability, answer_probability = np.zeros(count, int), np.zeros(count), np.zeros(count)
    batch_size = min(BATCH_SIZE, max(1, training.LARGEST_LOGITS // len(number_of)))
    for start in range(0, count, batch_size):
        batch = np.arange(start, min(count, start + batch_size))
        mean = np.zeros((len(batch), len(number_of)))
        for model, column, answers in zip(models, columns, by_model, strict=True):
            rows = np.flatnonzero(model.knows[batch])
            if not len(rows):
                continue
            logits = np.asarray(model.trainer.logits(model.examples.compact(batch[rows])), np.float64)  # (B, V)
            answers[batch[rows]] = column[logits.argmax(axis=1)]
            mean[np.ix_(rows, column)] += probabilities_of(logits)
        mean /= sum(model.knows[batch] for model in models)[:, np.newaxis]
        ensemble[batch], probability[batch] = mean.argmax(axis=1), mean.max(axis=1)
        for i, row in zip(batch, mean, strict=True):
            answer_probability[i] = max(
                (row[number_of[word]] for word in queries[i].answers if word in number_of), default=0
            )
    if len(models) == 1:
        ensemble = by_model[0]
    return Predictions(list(number_of), by_model, ensemble, probability, answer_probability)


def is_right(predicted, words, queries):
    """Whether each of N predicted words is a right answer: (N,) bool."""
    return np.array([words[i] in query.answers for i, query in zip(predicted, queries, strict=True)])


def accuracies(right, queries, knows=True):
    """Accuracy in 0..1 by task, and over all questions for films.

    Args:
        right: (N,), whether the answer to each of the N questions is right.
        queries: the questions.
        knows: (N,), whether the question counts.
    """
    task_of = np.array([query.task for query in queries])
    known, is_film = np.broadcast_to(knows, task_of.shape), task_of.dtype.kind == "U"
    tasks = [task for task in (KINDS if is_film else TASKS) if (known & (task_of == task)).any()]
    by_task = {task: float(np.mean(right[known & (task_of == task)])) for task in tasks}
    return by_task | ({scores.ALL: float(np.mean(right))} if is_film else {})


def prediction_rows(queries, predictions):
    """The rows of a file of predictions, lists of cells, of which several models have one more each."""
    words = predictions.words
    right = is_right(predictions.ensemble, words, queries)
    for i, query in enumerate(queries):
        own = [words[answer] if answer >= 0 else "" for answer in predictions.models[:, i]]
        yield [
            *(query.task, query.story, query.line, query.text, "|".join(query.answers)),
            *(words[predictions.ensemble[i]], right[i]),
            *(f"{predictions.probability[i]:.4f}", f"{predictions.answer_probability[i]:.4f}"),
            *(own if len(own) > 1 else []),
        ]


def confusion(queries, predictions):
    """How often each answer was predicted for each right answer, by task: a `pandas.DataFrame` of counts."""
    import pandas
    from sklearn.metrics import confusion_matrix

    pairs = {}
    for query, label in zip(queries, predictions.ensemble, strict=True):
        pairs.setdefault(query.task, []).append((query.answers[0], predictions.words[label]))
    tables = {}
    for task, both in pairs.items():
        words = sorted(set().union(*both))
        counts = pandas.DataFrame(confusion_matrix(*zip(*both, strict=True), labels=words), words, words)
        tables[task] = counts.loc[counts.any(axis=1), counts.any()]
    return pandas.concat(tables, names=["task", "answer"]).rename_axis(columns="prediction").fillna(0).astype(int)


# --- the terminal ---------------------------------------------------------------------------------------


def label(task):
    """A task as `scores.summary` has it."""
    return task if task in KINDS else f"{task:4d} {TASK_NAMES[task]}"


def error(by_task):
    """The mean error in percent over tasks, or over all questions about films."""
    return scores.mean_error(by_task[scores.ALL] if scores.ALL in by_task else list(by_task.values()))


def failed(by_task, split):
    """How many of the tasks have failed, such as "6 of 20"; "" for films and for other splits than test."""
    count = f"{scores.count_failed(list(by_task.values()))} of {len(by_task)}"
    return count if split == "test" and scores.ALL not in by_task else ""


def report(paths, by_model, ensemble, split):
    """The tables of accuracies, in 80 columns, from dicts from task to accuracy in 0..1, of models and ensemble."""
    several = any(sum(task in own for own in by_model) > 1 for task in ensemble)
    width = max(len(label(task)) for task in ensemble)
    columns = "           models   lowest  highest  ensemble" if several else f"  {split:>10}"
    lines = [f"{'task':{width}}{columns}"]
    for task, accuracy in ensemble.items():
        line = f"{label(task):{width}}"
        if several:
            values = [own[task] for own in by_model if task in own]
            line += f"  {deviating(values, 4):>15}  {min(values):7.4f}  {max(values):7.4f}  {accuracy:8.4f}"
        else:
            line += f"  {accuracy:10.4f}"
        is_failed = split == "test" and task in TASKS and scores.is_failed(accuracy)
        lines.append(line + ("  failed" if is_failed else ""))
    if not several:
        count = failed(ensemble, split)
        in_words = f", failed tasks (error above 5 %): {count}" if count else ""
        mean = "" if scores.ALL in ensemble else "mean "
        return "\n".join([*lines, f"{mean}{split} error {error(ensemble):.2f} %{in_words}"])
    errors = [error(own) for own in by_model]
    totals = [(f"{one:.2f}", failed(own, split), name) for one, own, name in zip(errors, by_model, paths, strict=True)]
    if all(own.keys() == ensemble.keys() for own in by_model):
        totals.append((deviating(errors, 2), "", f"mean ± deviation of {len(errors)} models"))
    totals.append((f"{error(ensemble):.2f}", failed(ensemble, split), "ensemble"))
    heading = f"{split} error %"
    lines += ["", f"{heading:>18}  {'failed' if split == 'test' else '':>8}  model"]
    return "\n".join([*lines, *(f"{one:>18}  {count:>8}  {name}" for one, count, name in totals)])


def deviating(values, digits):
    """The mean of values and, if there are several, their standard deviation."""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


# --- the command ----------------------------------------------------------------------------------------


def main(argv=None):
    """Evaluates as the flags say."""
    parser = Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    shipped = "pretrained/joint_10k.keras"
    add("--model", nargs="+", default=[DEFAULT_MODEL], metavar="FILE", help=f"models (default: {shipped})")
    add("--data_dir", type=folder, help="folder of questions (default: that of the run that made the model)")
    add("--task_id", type=task_numbers, help="task 1 to 20, a list or a range (default: all tasks of the models)")
    add("--split", choices=FILES, default="test", help="which questions (default: test)")
    add("--predictions", type=output_path, metavar="FILE.csv", help="write answer and probability of every question")
    add(
        "--confusion",
        type=output_path,
        nargs="?",
        const=False,
        metavar="FILE.csv",
        help="print how often each answer is predicted for each right answer, or write it into a file",
    )
    flags = parser.parse_args(argv)
    if flags.confusion is not None and not importlib.util.find_spec("pandas"):
        raise InputError("--confusion needs pandas: pip install -r requirements-desk.txt.")
    queries, models, data_dir, simulated = load(flags.model, flags.data_dir, flags.task_id, flags.split)
    if flags.confusion is not None and queries[0].task in KINDS:
        raise InputError("--confusion: questions about films have too many answers for a table.")
    print(f"{len(queries)} {flags.split} questions in {data_dir}", flush=True)
    predictions = predict(queries, models)
    by_model = [
        accuracies(is_right(answers, predictions.words, queries), queries, model.knows)
        for answers, model in zip(predictions.models, models, strict=True)
    ]
    ensemble = accuracies(is_right(predictions.ensemble, predictions.words, queries), queries)
    print(report(flags.model, by_model, ensemble, flags.split))
    if simulated:
        print(f"{data_dir}: {plots.NOT_BABI}")
    if flags.predictions:
        columns = [*PREDICTION_COLUMNS, *(flags.model if len(models) > 1 else [])]
        files.write(flags.predictions, scores.csv_bytes(prediction_rows(queries, predictions), columns))
        print(f"predictions in {flags.predictions}")
    if flags.confusion is None:
        return
    table = confusion(queries, predictions)
    if flags.confusion:
        files.write(flags.confusion, table.to_csv(lineterminator="\n").encode())
        print(f"confusion table in {flags.confusion}")
        return
    for task, counts in table.groupby(level="task"):
        counts = counts.droplevel("task").loc[:, counts.any()]
        print(f"\n{label(task).strip()}: right answers by row, predictions by column")
        print(counts.to_string(line_width=80))


if __name__ == "__main__":
    run_command(main)
