"""A board's bytes become blocks of samples; no signal processing happens here."""
