"""Which measurement is asked for."""

import sys

from svd_core.bench import video

if __name__ == "__main__":
    sys.exit(video.main())
