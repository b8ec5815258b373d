"""From a model to a proven bundle, and proving it again."""
