"""What Prometheus scrapes, alerts on and Grafana shows."""
