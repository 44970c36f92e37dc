"""What people and programs read afterwards; takes plain dictionaries only."""
