"""Which measurement is asked for: `--api`, `--extras`, or what a video costs."""

import sys

if __name__ == "__main__":
    if "--api" in sys.argv:
        from svd_core.bench import api

        sys.exit(api.main())
    if "--extras" in sys.argv:
        from svd_core.bench import extras

        sys.exit(extras.main())
    from svd_core.bench import video

    sys.exit(video.main())
