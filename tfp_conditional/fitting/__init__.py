"""`fit`: maximum likelihood."""
