"""What the page asks of the server: its routes, the library of files, previews, the view of a training."""
