"""The finished search for a preset: its table, made from reference cells and from explored.csv."""
