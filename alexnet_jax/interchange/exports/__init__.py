"""The folder of an export: its files, their description, and the check of each file."""
