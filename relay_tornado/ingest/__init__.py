"""What accepts webhooks, whatever the transport."""
