"""Shlink: migration, server, route, GeoLite database and web client."""
