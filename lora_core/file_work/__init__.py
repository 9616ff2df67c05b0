"""Work on adapter files that needs no model in memory: merging, resizing, extracting, baking, comparing, converting."""
