"""One file per wire format: bytes in, packets out, no I/O."""
