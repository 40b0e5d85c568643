"""The tests run with one thread a process, theirs and the ones that they start, in as many processes as there are cores.

Most networks here are small: threads would wait for one another, and numbers are compared bit for bit between processes.
"""

import os

# before torch and numpy are imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
