"""What checkpoints hold: each module turns the tensors of one family, by their names, into a `Model`."""
