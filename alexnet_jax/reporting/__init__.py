"""The page of a run (§6.1) and its tables for the terminal; report.py assembles the page."""
