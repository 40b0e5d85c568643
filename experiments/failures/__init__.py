"""Misclassified images, each explained three times: what the confused classes share, and what tells them apart."""
