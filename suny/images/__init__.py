"""Images: data sets, decoding, the network's view of an image, perturbation of pixels."""
