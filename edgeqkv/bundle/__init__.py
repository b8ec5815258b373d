"""What is on disk after an export."""
