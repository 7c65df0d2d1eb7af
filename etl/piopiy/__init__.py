"""One question over HTTP: the client of the API, and the HTTP exchange under it."""
