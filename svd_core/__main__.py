"""`python -m svd_core photo.jpg -o out.mp4`."""

import os
import signal
import sys

from svd_core.cli.main import main

if __name__ == "__main__":
    # Ended from outside is ended like Ctrl-C: what was begun is cleared away.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
