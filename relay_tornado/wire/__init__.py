"""The wire formats: control messages in, frames out; no sockets."""
