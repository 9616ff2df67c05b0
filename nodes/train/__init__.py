"""The nodes that make a dataset and train on it."""
