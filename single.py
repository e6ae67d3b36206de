"""Trains and scores one Key-Value Memory Network per bAbI task."""

import flags


def flag_parser():
    """The parser of this script's flags; the defaults are those of the original's training per task."""
    return flags.training_parser(
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


def main(argv=None, submit=None):
    """Trains one model for each task in --task_id; `submit`: see `experiment.run`."""
    values = flag_parser().parse_args(argv)
    import experiment  # after the flags, so that help and wrong flags answer at once

    experiment.run("single", values, lambda values: [[task] for task in values.task_id], submit=submit)


if __name__ == "__main__":
    flags.run_command(main)
