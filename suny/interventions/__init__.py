"""What can be removed or kept: pixels of an image, regions and feature maps of it, filters of a layer."""
