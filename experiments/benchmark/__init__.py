"""Speed, memory and error, measured on this machine: :mod:`experiments.benchmark.__main__`."""
