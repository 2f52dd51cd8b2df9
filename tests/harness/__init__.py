"""What several test folders share. Importable because pytest puts `tests/` on the path."""
