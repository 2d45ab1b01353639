"""What the commands share: one line for what a user can mend, a traceback for what we must."""

import os
import sys


def run(parser, main):
    """Parse the flags and call `main`; expected errors print one line and exit with 1.

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
    except (ValueError, FileNotFoundError, ImportError) as error:
        if arguments.debug:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit("stopped; start the same command again to go on.")
