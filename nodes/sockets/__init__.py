"""The types of values that travel between nodes, and how a report is shown."""
