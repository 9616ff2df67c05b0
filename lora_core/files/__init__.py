"""What lies on disk: headers, values, metadata, sidecars and hashes of safetensors files, read and written."""
