"""From adapters to a file in the names of a dialect: pieces, spelled layers, what is written."""
