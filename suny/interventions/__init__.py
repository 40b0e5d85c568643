"""Interventions remove or keep pixels of an image, regions and feature maps of it, or filters of a layer."""
