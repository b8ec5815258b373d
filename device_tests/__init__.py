"""Sample apps that run an exported bundle, and the tests that stand in for devices where there is none."""
