"""What a model is: tensors, layers, operations, and the architectures written over them."""
