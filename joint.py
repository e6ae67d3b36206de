"""Trains one Key-Value Memory Network on all twenty bAbI tasks and scores it task by task."""

import flags


def flag_parser():
    """The parser of this script's flags; the defaults are those of the original's joint training."""
    return flags.training_parser(
        __doc__,
        task_id="all",
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


def main(argv=None, submit=None):
    """Trains one model on the tasks in --task_id; `submit`: see `experiment.run`."""
    values = flag_parser().parse_args(argv)
    import experiment  # after the flags, so that help and wrong flags answer at once

    experiment.run("joint", values, lambda values: [values.task_id], submit=submit)


if __name__ == "__main__":
    flags.run_command(main)
