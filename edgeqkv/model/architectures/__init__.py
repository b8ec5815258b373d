"""The architectures, each written once over `edgeqkv.model.ops`."""
