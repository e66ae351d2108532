"""The errors a user can meet. Each message says what was found, what was expected, and the fix.

Library code raises these; only the command line turns them into exit codes.
"""

PIP_INSTALL = "in the folder of ssd-edge: pip install"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without indentation; empty where it has none."""
    return next(iter(str(error).strip().splitlines()), "")


def reason(error: BaseException) -> str:
    """The first line of an error's text; the name of its class where it has none."""
    return first_line(error) or type(error).__name__


class SsdEdgeError(Exception):
    """Something the user can fix. The command line prints the message and exits with `exit_code`."""

    exit_code = 1


class DatasetError(SsdEdgeError):
    """A dataset, an image or an annotation file that cannot be used as it is."""


class ModelFileError(SsdEdgeError):
    """A checkpoint, ONNX file, engine or card that is not what it should be."""


class SourceError(SsdEdgeError):
    """A camera, stream, video or image that cannot be opened or read."""


class SinkError(SsdEdgeError):
    """An output that cannot be written."""


class MissingDependencyError(SsdEdgeError):
    """An optional package is needed; the message ends with how to install the extra that brings it.

    Args:
        fix: what to do instead, where no extra brings it.
    """

    def __init__(self, problem: str, extra: str, *, fix: str | None = None):
        fix = fix or f"{PIP_INSTALL} '.[{extra}]'"
        super().__init__(f"{problem}; {fix}")


class UsageError(SsdEdgeError):
    """Wrong usage of the command line or of an option."""

    exit_code = 2


class GateFailedError(SsdEdgeError):
    """The work was done, but a figure fell short of the bar that was asked for."""

    exit_code = 3
