"""Which measurement is asked for: what a video costs, or `extras`."""

import sys

from svd_core.bench import extras, video

if __name__ == "__main__":
    if sys.argv[1:2] == ["extras"]:
        sys.exit(extras.main(sys.argv[2:]))
    sys.exit(video.main())
