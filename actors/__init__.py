"""Plain classes that act; cluster/ makes them remote."""
