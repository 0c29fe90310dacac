"""Prepared data sets in buckets of Google Cloud Storage and of S3 (§2)."""
