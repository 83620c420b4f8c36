"""Command `python -m rewards.try`: score a folder of videos with every reward before training on them."""

import sys

from evaluation.reward_trial_options import USAGE, parse
from models.terminal import answer_help, readable_in_part

if __name__ == "__main__":
    answer_help(lambda: USAGE)

    import logging

    from evaluation.reward_trial import score_videos

    logging.getLogger("rewards.attempt").setLevel(logging.ERROR)  # failures are listed below the table, once
    try:
        with readable_in_part():
            score_videos(*parse(sys.argv[1:]))
    except ValueError as error:
        print(f"rewards.try: {error}", file=sys.stderr)
        sys.exit(2)
