"""What every command shares: from Hydra's configuration to objects, one line for a mistake, what is shown of work under way."""
