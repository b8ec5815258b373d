"""The torch interpreter: what every export is compared with, and the interpreters that observe."""
