"""What objects of several layers have in common: pods, placement, rights, charts."""
