"""Which measurement is asked for."""

import sys

from svd_core.bench import api, video

if __name__ == "__main__":
    sys.exit(api.main() if "--api" in sys.argv else video.main())
