"""One backend per file; `mien.engine.backend` finds them by the file's name."""
