"""Folders and files: paths, manifests, checksums, owners and disk space."""
