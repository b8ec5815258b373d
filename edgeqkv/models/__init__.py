"""The architectures, each written once over `edgeqkv.ops`."""
