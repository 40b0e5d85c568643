"""Training: photographs on their way to a network, the loop over epochs, recipes."""
