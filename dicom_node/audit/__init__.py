"""The audit: queries, seals and their proof, redaction, and messages to an audit repository."""
