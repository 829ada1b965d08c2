"""Access to the web side: logins, tokens, and what protects a browser's session."""
