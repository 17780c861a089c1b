"""Which measurement is asked for: what a video costs, or `extras`, `contest`, `plans`."""

import sys

from svd_core.bench import extras, video

if __name__ == "__main__":
    if sys.argv[1:2] == ["extras"]:
        sys.exit(extras.main(sys.argv[2:]))
    if sys.argv[1:2] == ["contest"]:
        from svd_core.bench import contest  # brings torch, which takes seconds

        sys.exit(contest.main(sys.argv[2:]))
    if sys.argv[1:2] == ["plans"]:
        from svd_core.bench import plans  # as above

        sys.exit(plans.main())
    sys.exit(video.main())
