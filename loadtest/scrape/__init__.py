"""What one scrape of `/metrics` costs the gateway, idle and while many streams run."""
