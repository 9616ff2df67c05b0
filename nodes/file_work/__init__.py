"""The nodes that work on adapter files: load, save, inspect, convert, merge, resize, extract, bake, compare, plot."""
