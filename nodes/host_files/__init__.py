"""Files by name inside the host's configured folders."""
