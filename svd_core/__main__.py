"""`python -m svd_core photo.jpg -o out.mp4`."""

import signal
import sys

if __name__ == "__main__":
    # SIGTERM ends the program like Ctrl-C, so that unfinished files are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from svd_core.cli.main import run

        code = run()
    except KeyboardInterrupt:  # while the program is loaded, or as it ends
        code = 130
    sys.exit(code)
