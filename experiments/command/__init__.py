"""The parts that all commands share: configuration, keys, one line for a mistake, and the display of work under way."""
