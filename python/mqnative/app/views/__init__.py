"""What the page shows, as pure functions of what is known; no widget in here."""
