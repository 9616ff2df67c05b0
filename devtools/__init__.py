"""What dev.py does, one module per command. Standard library only; nothing here is imported by the pack."""
