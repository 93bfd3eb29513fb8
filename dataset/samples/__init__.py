"""Masked samples: packing, masking and the HDF5 files."""
