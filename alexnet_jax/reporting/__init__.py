"""The parts of the report's page (§6.1): report.py puts them together."""
