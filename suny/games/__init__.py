"""Games between players: from the values of coalitions to the values of players. Pure functions, which know of no image."""
