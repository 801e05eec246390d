"""vmseal for dom0 of Qubes."""
