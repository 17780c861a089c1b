"""`python -m svd_core photo.jpg -o out.mp4`."""

import signal
import sys

from svd_core.cli import main

if __name__ == "__main__":
    # Ended from outside is ended like Ctrl-C: what was begun is cleared away.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
