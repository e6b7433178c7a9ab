"""The ledger of claims: what the seeds say, how it is decided, and what was found."""
