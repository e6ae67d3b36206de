"""Trains one Key-Value Memory Network on all twenty bAbI tasks and scores it task by task."""

import data_utils
import runs
import training


def flag_parser():
    """This script's flags: its defaults are those of the original joint training."""
    return training.flag_parser(
        __doc__,
        embedding_size=40,
        feature_size=50,
        memory_size=50,
        epochs=200,
        batch_size=50,
        decay_steps=90_000,
        l2_lambda=0.1,
        evaluation_interval=20,
        output_file=None,
        param_output_file=None,
    )


def main(argv=None):
    runs.run("joint", flag_parser(), lambda flags: [range(1, data_utils.TASKS + 1)], argv)


if __name__ == "__main__":
    runs.command(main)
