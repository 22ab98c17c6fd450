"""`python -m pretrain` is `pretrain`."""

from typing import NoReturn

from pretrain import cli
from pretrain.run.exit import leave_after


def main() -> NoReturn:
    """The process of a command."""
    leave_after(cli.main)


if __name__ == "__main__":
    main()
