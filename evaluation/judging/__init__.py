"""Let a multimodal language model judge videos, with a transcript of every answer."""
