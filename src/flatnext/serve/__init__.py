"""The service: an exported model answers over HTTP, and has a page. Without torch."""
