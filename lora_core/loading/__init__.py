"""Where file, names and algorithms meet: an adapter file becomes layers and adapters, with every key accounted for."""
