"""`python -m pretrain` is `pretrain`."""

from typing import NoReturn

from pretrain import cli
from pretrain.run.exit import run_and_exit


def main() -> NoReturn:
    """The process of a command."""
    run_and_exit(cli.main)


if __name__ == "__main__":
    main()
