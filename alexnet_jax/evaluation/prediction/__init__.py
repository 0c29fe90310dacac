"""Predictions for pictures: where they are, the nets that are averaged, and how answers look."""
