"""Faces: found, followed, aligned, masked and warped."""
