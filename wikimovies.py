"""Trains one Key-Value Memory Network on questions about films, from a knowledge base or from documents."""

import os

import flags


def flag_parser():
    """The parser of this script's flags; the defaults answer from a knowledge base."""
    return flags.training_parser(
        __doc__,
        films=True,
        embedding_size=512,
        memory_size=64,
        epochs=2,
        batch_size=64,
        learning_rate=0.003,
        epsilon=1e-8,
        decay_steps=90_000,
        l2_lambda=0.0,
        max_grad_norm=1000.0,
        gradient_noise=0.0,
        evaluation_interval=10,
        output_file=None,
        param_output_file=None,
    )


def main(argv=None, submit=None):
    """Trains one model on all questions; `submit`: see `experiment.run`."""
    values = flag_parser().parse_args(argv)
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # faster where there are many candidates
    import experiment  # after the flags, so that help and wrong flags answer at once

    experiment.run("wikimovies", values, lambda values: [None], experiment.FILMS, submit)


if __name__ == "__main__":
    flags.run_command(main)
