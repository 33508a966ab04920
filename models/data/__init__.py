"""Training data: images, crops and degradations, in batches on the device of the images."""
