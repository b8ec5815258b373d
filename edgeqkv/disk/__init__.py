"""Writing to a disk that others write to as well, such that nothing of theirs is lost and nothing of ours is left."""
