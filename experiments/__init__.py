"""The benchmark: configuration -> cell of records -> summary -> table, and single explanations as pictures."""

import os
import sys

# A file or a scheduler's log is no place for progress bars. tqdm reads this when it is imported first; who has set it already
# (to nothing, for bars everywhere) keeps it.
if not (sys.stderr and sys.stderr.isatty()):
    os.environ.setdefault("TQDM_DISABLE", "1")

import suny  # noqa: F401 - torchvision has to be importable first
