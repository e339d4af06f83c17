"""Operations on pixels, one per file: the definition in numpy, the fast paths, and the public function."""
