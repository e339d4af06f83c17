"""Renders of made-up people with labels by geometry: the sample clip, and heads whose expression truly changes."""
