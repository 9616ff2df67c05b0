"""From a key in a file to the layer of a model that it belongs to: dialects, families and the table of names."""
