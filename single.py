"""Trains and scores one Key-Value Memory Network per bAbI task."""

import runs
import training


def flag_parser():
    """This script's flags: its defaults are those of the original single-task training."""
    return training.flag_parser(
        __doc__,
        task_id="1",
        embedding_size=30,
        feature_size=40,
        memory_size=20,
        epochs=100,
        batch_size=32,
        decay_steps=20_000,
        l2_lambda=0.2,
        evaluation_interval=50,
        output_file="single_scores.csv",
    )


def main(argv=None):
    runs.run("single", flag_parser(), lambda flags: [[task] for task in flags.task_id], argv)


if __name__ == "__main__":
    runs.command(main)
