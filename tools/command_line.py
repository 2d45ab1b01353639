"""What the commands share: an error is one line, its traceback comes with --debug."""

import os
import sys


def run(parser, main):
    """Parse the flags and call `main`; an error prints one line and exits with 1.

    Args:
        parser: an `argparse.ArgumentParser`; `--debug` is added here.
        main: function of the parsed flags.
    """
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args()
    # The libraries' notes on missing GPUs would bury the one line that matters.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        main(arguments)
    except Exception as error:
        if arguments.debug:
            raise
        message = " ".join(str(error).split())
        if isinstance(error, OSError) and error.filename and error.strerror:
            message = f"{error.filename}: {error.strerror}."
        if not isinstance(error, (ValueError, OSError, ImportError)):
            message = f"{type(error).__name__}: {message} (--debug shows where)"
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit("stopped; start the same command again to go on.")
