"""Running what was exported: sessions, text, measurements of quality."""
