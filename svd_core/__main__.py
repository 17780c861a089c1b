"""`python -m svd_core photo.jpg -o out.mp4`."""

import signal
import sys

from svd_core.cli.main import run

if __name__ == "__main__":
    # SIGTERM ends the program like Ctrl-C, so that unfinished files are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run())
