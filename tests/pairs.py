"""Certificates with their keys, in files as the settings name them."""

from __future__ import annotations

from pathlib import Path

import trustme


def write_pair(folder: Path, leaf: trustme.LeafCert) -> tuple[Path, Path]:
    """The certificate with what leads to its authority, and its key, which is there first, as by renewals; returns
    their paths."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    leaf.private_key_pem.write_to_path(key)
    certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    return certificate, key
