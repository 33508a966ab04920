"""Images -> training pairs, in batches, on whatever device holds the images."""
