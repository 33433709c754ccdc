"""Train small image classifiers into flat minima, and know by how much it helped."""
