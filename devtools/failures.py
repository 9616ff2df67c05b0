"""The one exception that ends a command: a one-line reason and an exit code."""

BAD_INPUT = 2
FAILED = 1


class CommandFailed(Exception):
    """`reason` is one line, shown on stderr without a traceback."""

    def __init__(self, reason: str, exit_code: int = FAILED) -> None:
        super().__init__(reason)
        self.reason = " ".join(reason.split())
        self.exit_code = exit_code


def bad_input(reason: str) -> CommandFailed:
    """The caller's input was wrong: exit code 2."""
    return CommandFailed(reason, BAD_INPUT)
