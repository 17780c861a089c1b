"""Which measurement is asked for."""

import sys

from svd_core.bench import video

if __name__ == "__main__":
    if "--contest" in sys.argv:
        from svd_core.bench import contest  # brings torch, which takes seconds

        sys.exit(contest.main())
    if "--plans" in sys.argv:
        from svd_core.bench import plans

        sys.exit(plans.main())
    sys.exit(video.main())
