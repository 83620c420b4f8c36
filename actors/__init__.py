"""Generate training samples with plain classes; cluster/ runs them in remote processes."""
