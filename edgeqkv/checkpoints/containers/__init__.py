"""File formats: each module maps a file's tensors into memory and tells what else the file holds."""
