"""Merges adapters: the methods one file per family, and the merge of whole files."""
