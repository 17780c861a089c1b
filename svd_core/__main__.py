"""`python -m svd_core photo.jpg -o out.mp4`."""

import os
import signal
import sys

from svd_core.cli.main import main

if __name__ == "__main__":
    # SIGTERM ends the program like Ctrl-C, so that unfinished files are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output, such as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
