"""One cell, from its configuration to its summary: :class:`experiments.cell.cell.Cell` reads from top to bottom."""
