"""The ``headgate`` command, and ``python -m headgate``: apart from ``cli`` for a Ctrl-C while that is imported."""

import sys


def main() -> None:
    """Run the command."""
    try:
        from headgate.cli import main as command

        command()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
